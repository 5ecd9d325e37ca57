"""Train a small BERT on sentences with names of people, cities and companies that the package Faker makes up."""

import argparse
import random
import re
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from project.wheels import open_wheel

PACKAGE = "Faker==40.63.0"
SHA256 = "36627c20b575b4138f54b6c21f8703e9ab122fd487aca11319beec2aa6ca7232"
LABELS = ["O", *(f"{place}-{name}" for name in ("PERSON", "CITY", "COMPANY") for place in "BI")]
SENTENCES = (
    "My name is {PERSON} and I live in {CITY}.",
    "Dear {PERSON}, thank you for your order; it was sent from {CITY} yesterday.",
    "{PERSON} has worked for {COMPANY} since last year.",
    "{COMPANY} opens an office in {CITY}.",
    "Please call {PERSON} at {COMPANY} before noon, or write to the team.",
    "The meeting with {COMPANY} is on Monday at nine; {PERSON} will be there.",
    "Yesterday {PERSON} moved from {CITY} to {CITY}.",
    "I bought it from {COMPANY} in {CITY}, but it does not work.",
    "{PERSON} and {PERSON} met in {CITY} and founded {COMPANY}.",
    "Who is {PERSON}? Do you know her?",
    "Our customer {PERSON} from {CITY} asks for a refund.",
    "{PERSON} called yesterday and wants to change the date of the appointment.",
    "Is {CITY} further away than {CITY}?",
    "The contract between {COMPANY} and {PERSON} ends in June.",
    "Contact: {PERSON}, {COMPANY}, {CITY}",
    "He wrote to {PERSON} in {CITY} about the price.",
    "According to {COMPANY}, the delivery was delayed by rain.",
    "Hello {PERSON}, can you send me the invoice?",
    "Kind regards, {PERSON}",
    "We fly from {CITY} to {CITY} on Friday with our friend {PERSON}.",
    "{COMPANY} was bought by {COMPANY} for a large sum.",
    "Ask {PERSON} whether the order from {COMPANY} has arrived.",
)
COUNT, STEPS, BATCH_SIZE, VOCABULARY = 8000, 700, 64, 1200


def main() -> None:
    """Write the model and its tokenizer into --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    random.seed(0)
    torch.manual_seed(0)
    examples = make_examples()
    tokenizer = train_tokenizer([text for text, _ in examples])
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=512,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    network = BertForTokenClassification(config).train()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, STEPS)
    for step in range(STEPS):
        chosen = random.sample(examples[500:], BATCH_SIZE)
        loss = network(**encode(tokenizer, chosen)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.3f}", flush=True)
    batch = encode(tokenizer, examples[:500])
    with torch.no_grad():
        predicted = network.eval()(**batch).logits.argmax(2)
    known = batch["labels"] >= 0
    print(f"{(predicted == batch['labels'])[known].float().mean():.1%} of the held-out tokens")
    network.half().save_pretrained(out)
    tokenizer.save_pretrained(out)


def make_examples() -> list[tuple[str, list[tuple[int, int, str]]]]:
    """Return pairs of sentences, some from the manual of Python, and where names in them start and end."""
    with tempfile.TemporaryDirectory() as folder, open_wheel(PACKAGE, SHA256) as wheel:
        wheel.extractall(folder)
        sys.path.insert(0, folder)
        from faker import Faker  # noqa: PLC0415  from the folder

        others = re.findall(r"[A-Z][\w ,'-]{30,120}\.", " ".join(topics.values()))
        fakes = [Faker(locale) for locale in ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT")]
        for each in fakes:
            each.seed_instance(0)
        sentences = [
            random.choices((random.choice(SENTENCES), random.choice(others)), (2, 1), k=2)
            for _ in range(COUNT)
        ]
        return [make_example(" ".join(pair), random.choice(fakes)) for pair in sentences]


def make_example(sentence: str, fake: object) -> tuple[str, list[tuple[int, int, str]]]:
    """Return a sentence with names, and where they are."""
    text, spans = "", []
    for part in re.split(r"\{(\w+)\}", sentence):
        if part in ("PERSON", "CITY", "COMPANY"):
            method = {"PERSON": "name", "CITY": "city", "COMPANY": "company"}[part]
            name = getattr(fake, method)()
            if part == "PERSON" and random.random() < 0.3:
                name = fake.first_name()
            spans.append((len(text), len(text) + len(name), part))
            text += name
        else:
            text += part
    return text, spans


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of subwords."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=list(names.values()))
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


def encode(
    tokenizer: PreTrainedTokenizerFast, examples: list[tuple[str, list[tuple[int, int, str]]]]
) -> dict[str, torch.Tensor]:
    """Return the tensors of a batch, with a label for each token; -100 is not counted."""
    texts = [text for text, _ in examples]
    batch = tokenizer(texts, padding=True, return_offsets_mapping=True, return_tensors="pt")
    offsets, labels = batch.pop("offset_mapping"), batch["attention_mask"] * 100 - 100
    for row, (_, spans) in enumerate(examples):
        for start, end, name in spans:
            inside = (offsets[row, :, 0] >= start) & (offsets[row, :, 1] <= end)
            inside &= offsets[row, :, 1] > 0
            labels[row, inside] = LABELS.index(f"I-{name}")
            labels[row, inside.nonzero()[0]] = LABELS.index(f"B-{name}")
    return {**batch, "labels": labels}


if __name__ == "__main__":
    main()
