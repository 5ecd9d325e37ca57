"""Train the classifier on the translated sentences in the package Django, and print its accuracy."""

import argparse
import ast
import random
import re
from pathlib import Path

import torch
from network import LABELS, VOCABULARY, LanguageNet
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy

from project.wheels import open_wheel
from task import pad

PACKAGE = "Django==5.2.19"
SHA256 = "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00"
EPOCHS, BATCH_SIZE, HELD_OUT = 12, 64, 500


def main() -> None:
    """Write tokenizer.json and weights.safetensors into --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    random.seed(0)
    torch.manual_seed(0)
    sentences = read_sentences()
    random.shuffle(sentences)
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["[PAD]", "[UNK]"]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special)
    tokenizer.train_from_iterator((text for text, _ in sentences), trainer)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)

    samples = [encode(tokenizer, text) for text, _ in sentences]
    targets = torch.tensor([LABELS.index(label) for _, label in sentences])
    net = LanguageNet()
    train(net, samples[HELD_OUT:], targets[HELD_OUT:])
    with torch.no_grad():
        predicted = net(**pad(samples[:HELD_OUT])).argmax(1)
    print(f"{(predicted == targets[:HELD_OUT]).float().mean():.1%} of {HELD_OUT} held out")
    weights = {name: each.half().contiguous() for name, each in net.state_dict().items()}
    save_file(weights, out / "weights.safetensors")


def read_sentences() -> list[tuple[str, str]]:
    """Return sentences and their languages; the English ones are the messages that are translated."""
    with open_wheel(PACKAGE, SHA256) as wheel:
        texts = {
            name: wheel.read(name).decode()
            for name in wheel.namelist()
            if re.search(rf"locale/({'|'.join(LABELS)})/LC_MESSAGES/.*\.po$", name)
        }
    found = set()
    for name, text in texts.items():
        language = name.split("locale/")[1][:2]
        for key, label in (("msgid", "en"), ("msgstr", language)):
            for quoted in re.findall(rf'^{key}(?:\[\d\])? ((?:".*"\n)+)', text, re.MULTILINE):
                sentence = "".join(map(ast.literal_eval, quoted.splitlines()))
                sentence = re.sub(r"%\(\w+\)\w|%\w|<[^>]*>|\{\w*\}", "", sentence).strip()
                if sentence.count(" ") > 2 and "Project-Id" not in sentence and language != "en":
                    found.add((sentence, label))
    return sorted(found)


def encode(tokenizer: Tokenizer, text: str) -> dict[str, torch.Tensor]:
    """Return the subwords of a text, and a mask of ones."""
    ids = torch.tensor(tokenizer.encode(text).ids[:64])
    return {"ids": ids, "mask": torch.ones(len(ids))}


def train(net: LanguageNet, samples: list[dict[str, torch.Tensor]], targets: torch.Tensor) -> None:
    """Train on samples in batches of padded ones."""
    net.train()
    steps = EPOCHS * (len(samples) // BATCH_SIZE + 1)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(samples)).split(BATCH_SIZE):
            batch = pad([samples[index] for index in chosen])
            loss = cross_entropy(net(**batch), targets[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"loss {loss:.3f}", flush=True)
    net.eval()


if __name__ == "__main__":
    main()
