"""A language model that is small enough to be fine-tuned in seconds, and knows nothing."""

from collections.abc import Sequence
from pathlib import Path

_END = "<|end|>"


def make_tiny_language_model(folder: Path, texts: Sequence[str]) -> Path:
    """A randomly initialised Llama of two layers, with a tokenizer trained on texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=1000,
            special_tokens=[_END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=_END)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=words.token_to_id(_END),
            tie_word_embeddings=True,
            initializer_range=0.15,  # frozen: with the usual 0.02 no adapter could make it certain
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
