"""AlexNet's plan (Krizhevsky et al., NIPS 2012), the network inside R-CNN, at the size of a lesson.

Five convolutions, pooling after the first, the second and the fifth, then two fully connected layers and a classifier.
R-CNN names its features after them: pool5, fc6 and fc7.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

CHANNELS = (32, 64, 128, 128, 96)


class Features(NamedTuple):
    """What a batch of N crops looks like to the three last layers before the classifier.

    pool5: (N, C, h, w), the last that still knows where things are. fc6, fc7: (N, hidden). All after the ReLU.
    """

    pool5: Tensor
    fc6: Tensor
    fc7: Tensor


class SmallAlexNet(nn.Module):
    """AlexNet for crops of 64 x 64 pixels: 1.2 million weights instead of 60.

    Departs from the paper: batch normalisation in place of local response normalisation and of biases, because it
    trains in minutes from scratch; narrower layers and a 5 x 5 first kernel at stride 2, because crops are small.
    `num_classes` counts the background. Crops may have any size that is a multiple of 16, the same for all.
    """

    def __init__(self, num_classes: int, crop_size: int = 64, hidden: int = 384) -> None:
        super().__init__()
        if crop_size % 16 or crop_size <= 0:
            raise ValueError(f"crop_size must be a positive multiple of 16, got {crop_size}.")
        c1, c2, c3, c4, c5 = CHANNELS
        self.crop_size = crop_size
        self.conv1 = convolution(3, c1, kernel=5, stride=2)
        self.conv2 = convolution(c1, c2)
        self.conv3 = convolution(c2, c3)
        self.conv4 = convolution(c3, c4)
        self.conv5 = convolution(c4, c5)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.fc6 = nn.Linear(c5 * (crop_size // 16) ** 2, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, num_classes)
        self.drop = nn.Dropout(0.5)

    def features(self, crops: Tensor) -> Features:
        """crops: (N, 3, S, S) with the mean colour subtracted. Raises ValueError for another size than built for."""
        if crops.shape[1:] != (3, self.crop_size, self.crop_size):
            raise ValueError(f"crops of shape {tuple(crops.shape)}: want (N, 3, {self.crop_size}, {self.crop_size}).")
        x = self.pool(self.conv1(crops))  # (N, 32, S/4, S/4)
        x = self.pool(self.conv2(x))  # (N, 64, S/8, S/8)
        x = self.conv5(self.conv4(self.conv3(x)))
        pool5 = self.pool(x)  # (N, 96, S/16, S/16)
        fc6 = torch.relu(self.fc6(self.drop(pool5.flatten(1))))
        fc7 = torch.relu(self.fc7(self.drop(fc6)))
        return Features(pool5, fc6, fc7)

    def forward(self, crops: Tensor) -> Tensor:
        """Class scores before the softmax, (N, num_classes), background first."""
        return self.fc8(self.features(crops).fc7)


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (divided by the stride), batch normalisation and ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
                         nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
