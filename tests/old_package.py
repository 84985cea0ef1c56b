"""A module of the package pytorch_lightning, whose classes are not those of lightning."""

import pytorch_lightning as pl


class OldPackage(pl.LightningModule):
    pass
