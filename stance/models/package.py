"""A base model in a GGUF file inside an installed Python package, converted to bf16 safetensors.

In: the block `base` with `source: package`. Out: a model folder like that of `save_pretrained`, with tokenizer, chat
template and generation config, and the record of the package. The package is found by its metadata and never imported,
so that what it depends on need not be installed. The special tokens are those that the GGUF file itself names:
transformers 5.17 reads another EOS from some files.
"""

import logging
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stance.config.models import PackageBase
from stance.data.chat import Fingerprint
from stance.errors import InputError
from stance.machine.files import digest
from stance.models.base import Base, Device, Package
from stance.models.intake import read_fingerprint, require_memory

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

INSTALL = "`make environment` installs what the project pins"
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""The special tokens by transformers' name; the values are those of GGUF."""
GENERATION = ("bos_token_id", "eos_token_id", "pad_token_id")


class Metadata(NamedTuple):
    """What a GGUF file says of its model, without the weights."""

    parameters: int
    """Number of weights."""
    special: dict[str, str]
    """The special tokens that the file names, by transformers' name: `bos_token` and so on."""
    ids: dict[str, int]
    """Their ids: `bos_token_id` and so on."""
    chat_template: str
    license: str | None


def find(options: PackageBase) -> Path:
    """Return the path of the GGUF file after a check of the package's version and of the file's hash.

    Raises:
        InputError: The package or the file is missing, or has another version or hash.
    """
    name = options.distribution
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        raise InputError(
            f"the package {name}, which holds the base model, is not installed; expected {name} {options.version}: "
            f"{INSTALL}"
        ) from None
    if installed.version != options.version:
        raise InputError(
            f"{name} {installed.version} is installed; expected {name} {options.version}, as base.version says: "
            f"{INSTALL}, or correct base.version and base.sha256"
        )
    path = Path(str(installed.locate_file(options.file)))
    if not path.is_file():
        raise InputError(f"{name} {options.version} holds no {options.file}; correct base.file, or install it again")
    sha256 = digest(path).sha256
    if sha256 != options.sha256:
        raise InputError(
            f"{options.file} in {name} {options.version} has SHA-256 {sha256}; expected {options.sha256}, as "
            "base.sha256 says: install the package again, or correct base.sha256 if you trust the file"
        )
    return path


def read_metadata(path: Path) -> Metadata:
    """Return what a GGUF file says of its model. Reading the vocabulary takes a second or two.

    Raises:
        InputError: The file is no GGUF file, or holds no chat template.
    """
    from gguf import GGUFReader  # imports numpy, which a check of parameters need not wait for

    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError) as error:
        raise InputError(f"{path} is not a GGUF file ({error}); correct base.file") from None

    def value(key: str) -> Any:
        field = reader.fields.get(key)
        return None if field is None else field.contents()

    template = value("tokenizer.chat_template")
    if not template:
        raise InputError(f"{path.name} has no chat template; expected a chat model: choose another file with base.file")
    numbers = {name: value(f"tokenizer.ggml.{key}_token_id") for name, key in SPECIAL.items()}
    ids = {f"{name}_token_id": number for name, number in numbers.items() if number is not None}
    tokens = reader.fields["tokenizer.ggml.tokens"] if ids else None
    special = {name.removesuffix("_id"): tokens.contents(number) for name, number in ids.items()} if tokens else {}
    parameters = sum(int(tensor.n_elements) for tensor in reader.tensors)
    return Metadata(parameters, special, ids, template, value("general.license"))


def read_config(path: Path) -> "PretrainedConfig":
    """Return the configuration of the model in a GGUF file.

    Raises:
        InputError: transformers does not know the architecture.
    """
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
    except (ValueError, NotImplementedError) as error:
        raise _unreadable(path, error) from None
    return config


def convert(path: Path, metadata: Metadata, folder: Path) -> None:
    """Write the model in a GGUF file to `folder`: bf16 safetensors, tokenizer, chat template, generation config.

    Every weight is dequantised when it is read, so the memory holds the bf16 model and one copy of it in fp32 at most.

    Raises:
        InputError: transformers cannot read the file, or does not keep the file's special tokens.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    from stance.data.chat import load_tokenizer

    source: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
    except (ValueError, NotImplementedError) as error:
        raise _unreadable(path, error) from None
    for name, token in metadata.special.items():
        setattr(tokenizer, name, token)
    for name, number in metadata.ids.items():
        setattr(model.config, name, number)
    tokenizer.chat_template = metadata.chat_template
    model.generation_config = GenerationConfig(**{name: metadata.ids.get(name) for name in GENERATION})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _require_special_tokens(load_tokenizer(folder), metadata, path)


def from_package(options: PackageBase, device: Device, folder: Path) -> tuple[Base, Fingerprint]:
    """Return the record and the fingerprint of a model in a Python package, converted into `folder`.

    Raises:
        InputError: The package, its version or the file's hash is another; or the model is no chat model, is unknown to
            transformers, or does not fit into memory.
    """
    path = find(options)
    metadata = read_metadata(path)
    require_memory(2 * metadata.parameters, device)
    logger.info("%s: %.0f million weights to bf16", options.origin, metadata.parameters / 1e6)
    convert(path, metadata, folder)
    fingerprint = read_fingerprint(folder, options.origin)
    package = Package(license=metadata.license, **options.model_dump(exclude={"source"}))
    files = {file.name: digest(file) for file in sorted(folder.iterdir())}
    return Base(source="package", package=package, files=files), fingerprint


def _require_special_tokens(tokenizer: "PreTrainedTokenizerFast", metadata: Metadata, path: Path) -> None:
    read = {name: getattr(tokenizer, name) for name in metadata.ids}
    if read != metadata.ids:
        raise InputError(
            f"transformers reads the special tokens {read} from {path.name}; expected {metadata.ids}, as the file "
            "says: choose another file"
        )


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(f"transformers cannot read {path.name} ({reason}); choose a GGUF file of another architecture")
