"""Tiny random folders of diffusers: the real classes, written by `save_pretrained`; nothing is downloaded."""

import string
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

CLIP_LENGTH, T5_LENGTH = 16, 12
_SEED = 0
BETAS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
ONE_LEVEL: dict[str, Any] = {
    "block_out_channels": (8,), "down_block_types": ("CrossAttnDownBlock2D",), "mid_block_type": None,
    "up_block_types": ("CrossAttnUpBlock2D",),
}  # fmt: skip
"""A U-Net with a third of the nodes, for what does not depend on its depth: exports take time by the node."""


def clip_tokenizer(length: int = CLIP_LENGTH) -> Any:
    """Letters are tokens; CLIP's own class, with begin and end."""
    letters = [*string.ascii_lowercase, *(f"{each}</w>" for each in string.ascii_lowercase)]
    vocabulary = {each: i for i, each in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], unk_token="<|endoftext|>", model_max_length=length)


def t5_tokenizer() -> Any:
    """Words are tokens, with T5's end."""
    words = ["a", "red", "blue", "heart", "star", "photo", "of", "the", "cat", "dog"]
    vocabulary = {each: i for i, each in enumerate(["<pad>", "</s>", "<unk>", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=T5_LENGTH
    )


def clip_text(width: int, projected: int | None = None, layers: int = 2) -> Any:
    torch.manual_seed(_SEED + width)
    config = transformers.CLIPTextConfig(
        vocab_size=54,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=CLIP_LENGTH,
        projection_dim=projected or width,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    kind = transformers.CLIPTextModel if projected is None else transformers.CLIPTextModelWithProjection
    return livelier(kind(config))


def t5_text(width: int) -> Any:
    torch.manual_seed(_SEED + width)
    return livelier(
        transformers.T5EncoderModel(
            transformers.T5Config(
                vocab_size=16, d_model=width, d_kv=8, d_ff=2 * width, num_layers=1, num_heads=2,
                feed_forward_proj="gated-gelu",
            )
        )
    )  # fmt: skip


def livelier(network: Any) -> Any:
    """Larger random weights: outputs of fresh networks hardly depend on their inputs, and then all would be equal."""
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim > 1:
                value.mul_(1.5)
            elif not value.any():
                value.normal_(std=0.1)
    return network.eval()


def unet_condition(channels: int = 4, width: int = 16, size: int = 8, **config: Any) -> Any:
    torch.manual_seed(_SEED)
    settings: dict[str, Any] = {
        "sample_size": size, "in_channels": channels, "out_channels": 4, "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1, "cross_attention_dim": width, "attention_head_dim": 4, "norm_num_groups": 4,
    }  # fmt: skip
    return livelier(diffusers.UNet2DConditionModel(**settings | config))


def vae(channels: int = 4, **config: Any) -> Any:
    torch.manual_seed(_SEED)
    return livelier(
        diffusers.AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=channels, layers_per_block=1,
            norm_num_groups=4, sample_size=16, **config,
        )
    )  # fmt: skip


def taesd(channels: int = 4) -> Any:
    torch.manual_seed(_SEED)
    return diffusers.AutoencoderTiny(
        latent_channels=channels, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip


def ddim(**config: Any) -> Any:
    return diffusers.DDIMScheduler(
        **BETAS | {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1} | config
    )


def flow(**config: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def stable_diffusion(kind: str = "StableDiffusionPipeline", unet: Any = None, **parts: Any) -> Any:
    return getattr(diffusers, kind)(
        **{"vae": vae(), "text_encoder": clip_text(16), "tokenizer": clip_tokenizer(), "scheduler": ddim()}
        | {"unet": unet_condition() if unet is None else unet}
        | {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        | parts
    )


def stable_diffusion_xl() -> Any:
    unet = unet_condition(
        width=40, addition_embed_type="text_time", addition_time_embed_dim=8, transformer_layers_per_block=(1,),
        projection_class_embeddings_input_dim=6 * 8 + 24, use_linear_projection=True, **ONE_LEVEL,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(), text_encoder=clip_text(16), text_encoder_2=clip_text(24, 24), tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(), unet=unet, scheduler=diffusers.EulerDiscreteScheduler(**BETAS),
    )  # fmt: skip


def beside_the_time() -> Any:
    """A network by itself, its scheduler in its folder, that reads the prompt beside the time too."""
    return unet_condition(addition_embed_type="text", addition_embed_type_num_heads=2, **ONE_LEVEL)


def stable_diffusion_3(t5: bool = True) -> Any:
    torch.manual_seed(_SEED)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=48, caption_projection_dim=16, pooled_projection_dim=40, out_channels=4,
        pos_embed_max_size=16,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=livelier(transformer), scheduler=flow(shift=3.0), vae=vae(shift_factor=0.1),
        text_encoder=clip_text(16, 16), tokenizer=clip_tokenizer(), text_encoder_2=clip_text(24, 24),
        tokenizer_2=clip_tokenizer(), text_encoder_3=t5_text(48) if t5 else None,
        tokenizer_3=t5_tokenizer() if t5 else None,
    )  # fmt: skip


def flux(guided: bool = True) -> Any:
    torch.manual_seed(_SEED)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, guidance_embeds=guided, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return diffusers.FluxPipeline(
        transformer=livelier(transformer), scheduler=flow(use_dynamic_shifting=guided), vae=vae(shift_factor=0.1),
        text_encoder=clip_text(16, layers=1), tokenizer=clip_tokenizer(), text_encoder_2=t5_text(32),
        tokenizer_2=t5_tokenizer(),
    )  # fmt: skip


def pixart() -> Any:
    torch.manual_seed(_SEED)
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2, caption_channels=32,
        in_channels=4, cross_attention_dim=16, out_channels=8, norm_num_groups=4, num_embeds_ada_norm=1000,
        use_additional_conditions=False,
    )  # fmt: skip
    return diffusers.PixArtAlphaPipeline(
        transformer=livelier(transformer),
        scheduler=ddim(),
        vae=vae(),
        text_encoder=t5_text(32),
        tokenizer=t5_tokenizer(),
    )


def dit() -> Any:
    torch.manual_seed(_SEED)
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=8, num_embeds_ada_norm=10, norm_num_groups=4,
    )  # fmt: skip
    return diffusers.DiTPipeline(transformer=livelier(transformer), vae=vae(), scheduler=ddim())


def unet(**config: Any) -> Any:
    torch.manual_seed(_SEED)
    settings: dict[str, Any] = {
        "sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4, "attention_head_dim": 4,
    }  # fmt: skip
    return livelier(diffusers.UNet2DModel(**settings | config))


def labelled() -> Any:
    return ddpm(
        num_class_embeds=7, block_out_channels=(8,), down_block_types=("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",),
    )  # fmt: skip


def ddpm(**config: Any) -> Any:
    return diffusers.DDPMPipeline(unet=unet(**config), scheduler=diffusers.DDPMScheduler())


def sana() -> Any:
    """The network alone: its text encoder, Gemma, is not imported."""
    torch.manual_seed(_SEED)
    transformer = diffusers.SanaTransformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
        caption_channels=8,
    )  # fmt: skip
    return diffusers.SanaPipeline(
        transformer=livelier(transformer), scheduler=flow(shift=3.0), vae=dc(), text_encoder=None, tokenizer=None
    )


def dc() -> Any:
    """Sana's autoencoder."""
    torch.manual_seed(_SEED)
    return livelier(
        diffusers.AutoencoderDC(
            in_channels=3, latent_channels=4, attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), downsample_block_type="conv",
            upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu",
            scaling_factor=0.41407,
        )
    )  # fmt: skip


def lcm() -> Any:
    return stable_diffusion(
        "LatentConsistencyModelPipeline",
        unet_condition(time_cond_proj_dim=8),
        scheduler=diffusers.LCMScheduler(**BETAS),
    )


def inpainting() -> Any:
    return stable_diffusion("StableDiffusionInpaintPipeline", unet_condition(channels=9))


def stable_diffusion_2() -> Any:
    unet = unet_condition(width=24, use_linear_projection=True, attention_head_dim=(2, 4))
    return stable_diffusion(
        unet=unet, text_encoder=clip_text(24), scheduler=ddim(prediction_type="v_prediction"),
    )  # fmt: skip


def ncsnpp() -> Any:
    made = unet(
        time_embedding_type="fourier", down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"), block_out_channels=(32, 32),
    )  # fmt: skip
    return diffusers.ScoreSdeVePipeline(unet=made, scheduler=diffusers.ScoreSdeVeScheduler(sigma_max=50.0))


def consistency() -> Any:
    made = unet(num_class_embeds=5, resnet_time_scale_shift="scale_shift")
    return diffusers.ConsistencyModelPipeline(unet=made, scheduler=diffusers.CMStochasticIterativeScheduler())


def sound() -> Any:
    torch.manual_seed(_SEED)
    made = diffusers.UNet1DModel(
        sample_size=64, in_channels=2, out_channels=2, block_out_channels=(32, 32, 64), extra_in_channels=64,
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D"),
        up_block_types=("AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
    )  # fmt: skip
    return diffusers.DanceDiffusionPipeline(unet=livelier(made), scheduler=diffusers.IPNDMScheduler())
