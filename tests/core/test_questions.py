"""Models that answer questions on images, as judges: tiny real ones of transformers with random weights."""
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from test_classify import build
from test_faces import trained

from sd_debias.core.attribute import GENDER, Attribute, Group
from sd_debias.core.errors import DebiasError
from sd_debias.core.judge import UNSURE, labels, named
from sd_debias.core.judge.clip import ClipModel
from sd_debias.core.judge.questions import ASKED, Asked, AskingModel

MAN = ASKED.format("a man")
WORDS = ("[PAD] [UNK] [CLS] [SEP] [MASK] [DEC] yes no is the person in this image a an man woman doctor old ? . , "
         "does show answer or").split()

TEXT = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=64)

VISION = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32,
              patch_size=16)

LLAMA = dict(TEXT, num_key_value_heads=2, bos_token_id=2, eos_token_id=3, pad_token_id=1, max_position_embeddings=1024)
TEMPLATE = ("{% for m in messages %}User: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
            "{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}")

KINDS = [kind for kind, needs in (("blip", "BlipProcessor"), ("vilt", "ViltProcessor"), ("llava", "LlavaProcessor"),
                                  ("idefics", "Idefics3Processor")) if hasattr(transformers, needs)]


def picture(seed, height=40, width=40):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def images():
    return [picture(seed, *size) for seed, size in enumerate([(40, 30), (64, 64), (30, 90), (32, 32), (33, 50)])]


def bert(folder):
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return transformers.BertTokenizer(str(folder / "vocab.txt"))


def lively(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():  # the usual initialisation answers all questions alike
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
    return model


def blip(folder):
    text = dict(TEXT, vocab_size=len(WORDS), encoder_hidden_size=16, projection_dim=8, bos_token_id=5, eos_token_id=3,
                sep_token_id=3, pad_token_id=0)
    config = transformers.BlipConfig(text_config=text, vision_config=VISION, projection_dim=8, image_text_hidden_size=8)
    lively(transformers.BlipForQuestionAnswering(config)).save_pretrained(folder)
    transformers.BlipProcessor(transformers.BlipImageProcessor(size=dict(height=32, width=32)),
                               bert(folder)).save_pretrained(folder)


def vilt(folder, answers=("man", "Yes", "no")):
    config = transformers.ViltConfig(**{**TEXT, **VISION}, vocab_size=len(WORDS), id2label=dict(enumerate(answers)))
    lively(transformers.ViltForQuestionAnswering(config)).save_pretrained(folder)
    transformers.ViltProcessor(transformers.ViltImageProcessor(size=dict(shortest_edge=32), size_divisor=16),
                               bert(folder)).save_pretrained(folder)


def words_of(special=(), words=("yes", "Yes", "no", "No")):
    """A tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    known = ["<unk>", "<pad>", "<s>", "</s>", *special, *words,
             *"User Assistant : ? . , Is the person in this image a an man woman doctor Answer or".split()]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=list(special))


def llava(folder, tokenizer=None):
    tokenizer = tokenizer or words_of(["<image>"])
    at = tokenizer.convert_tokens_to_ids("<image>")
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**LLAMA, vocab_size=len(tokenizer)),
        vision_config=transformers.CLIPVisionConfig(**dict(VISION, num_hidden_layers=2)), image_token_index=at)
    lively(transformers.LlavaForConditionalGeneration(config)).save_pretrained(folder)
    process = transformers.CLIPImageProcessor(size=dict(shortest_edge=32), crop_size=dict(height=32, width=32))
    transformers.LlavaProcessor(process, tokenizer, patch_size=16, vision_feature_select_strategy="default",
                                num_additional_image_tokens=1, chat_template=TEMPLATE).save_pretrained(folder)


def idefics(folder):
    """As SmolVLM: an image is cut into tiles, as many as its shape needs, so that questions differ in length."""
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = words_of(["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *tiles])
    config = transformers.Idefics3Config(
        text_config=dict(model_type="llama", **LLAMA, vocab_size=len(tokenizer)), scale_factor=2, pad_token_id=1,
        vision_config=dict(VISION, patch_size=8), image_token_id=tokenizer.convert_tokens_to_ids("<image>"))
    lively(transformers.Idefics3ForConditionalGeneration(config)).save_pretrained(folder)
    process = transformers.Idefics3ImageProcessor(size=dict(longest_edge=64), max_image_size=dict(longest_edge=32))
    transformers.Idefics3Processor(process, tokenizer, image_seq_len=4, chat_template=TEMPLATE).save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in found.items():
        globals()[kind](folder)
    return found


@pytest.fixture(scope="module")
def models(folders):
    return {kind: AskingModel(folder) for kind, folder in folders.items()}


def inputs_of(model, image, question):
    return model.processor(images=[Image.fromarray(image)], text=[question], return_tensors="pt")


@torch.no_grad()
def by_hand(kind, model, image, question):
    """p(yes) / (p(yes) + p(no)) of one image, by a plain pass of the model."""
    if kind in ("blip", "vilt"):
        question = question.removesuffix(" Answer yes or no.")
        inputs = inputs_of(model, image, question)
        if kind == "vilt":
            p = model.model(**inputs).logits[0].softmax(-1)
            return float(p[1] / (p[1] + p[2]))
        seen = model.model.vision_model(inputs["pixel_values"])[0]
        read = model.model.text_encoder(inputs["input_ids"], attention_mask=inputs["attention_mask"],
                                        encoder_hidden_states=seen)[0]
        begun = torch.tensor([[WORDS.index("[DEC]")]])
        logits = model.model.text_decoder(begun, encoder_hidden_states=read).logits[0, -1]
        yes, no = [WORDS.index("yes")], [WORDS.index("no")]
    else:
        logits = model.model(**inputs_of(model, image, f"User: <image>{question} Assistant:")).logits[0, -1]
        yes, no = ([model.tokenizer.convert_tokens_to_ids(word) for word in own] for own in (("yes", "Yes"),
                                                                                           ("no", "No")))
    p = logits.softmax(-1)
    return float(p[yes].sum() / p[yes + no].sum())


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_the_models_own_probability_of_yes_against_no(kind, models, images):
    model = models[kind]
    found = [float(model.yes([image], MAN)[0]) for image in images]
    np.testing.assert_allclose(found, [by_hand(kind, model, image, MAN) for image in images],
                               atol=1e-5)
    assert np.ptp(found) > 0.005 and model.yes(images, MAN).dtype == np.float32
    man, woman = (model.yes(images[:2], ASKED.format(f"a {group}")) for group in ("man", "woman"))
    assert np.abs(man - woman).min() > 1e-4, "another question gets another answer"
    shows = by_hand(kind, model, images[0], ASKED.format("a doctor"))
    assert model.similarity(images[:1], "a photo of a doctor") == pytest.approx([shows], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_any_shape_beside_it_do_not_change_an_answer(kind, folders, models, images):
    """Cuts of faces and images of a folder differ in size."""
    same, model = [picture(seed) for seed in range(5)], models[kind]
    alone = np.concatenate([model.yes([image], MAN) for image in same])
    np.testing.assert_allclose(AskingModel(folders[kind], batch_size=2).yes(same, MAN), alone, atol=1e-5)
    alone = np.concatenate([model.yes([image], MAN) for image in images])
    np.testing.assert_allclose(model.yes(images, MAN), alone, atol=1e-4)


@pytest.mark.skipif("idefics" not in KINDS, reason="this version of transformers has no Idefics3")
def test_padded_on_the_left_a_chat_models_answers_are_those_of_each_picture_alone(folders, images):
    model = AskingModel(folders["idefics"])
    model.tokenizer.padding_side = "left"
    alone = np.concatenate([model.yes([image], MAN) for image in images])
    np.testing.assert_allclose(model.yes(images, MAN), alone, atol=1e-4)


class Says:
    """Answers with fixed probabilities, by what is asked."""
    name = "a model"

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def yes(self, images, question):
        self.asked.append(question)
        return np.asarray(self.answers[len(self.asked) - 1], np.float32)


def test_groups_are_the_answers_scaled_and_pictures_without_a_yes_are_left_out():
    says = Says([[0.9, 0.5, 0.49, 0.1], [0.3, 0.2, 0.48, 0.6]])
    p = Asked(says, GENDER)([picture(0)] * 4)
    np.testing.assert_allclose(p, [[0.75, 0.25], [5 / 7, 2 / 7], [0, 0], [1 / 7, 6 / 7]], atol=1e-6)
    assert p.dtype == np.float32 and labels(p).tolist() == [0, 0, UNSURE, 1]
    assert says.asked == [MAN, ASKED.format("a woman")]


def test_groups_are_asked_about_in_the_words_of_their_descriptions_which_must_differ():
    hat = Attribute("hat", (Group("with a hat", ("{prompt}, a person with a hat",)), Group("bare", ("{prompt}",))))
    assert Asked(Says([]), hat).questions == [ASKED.format("a person with a hat"), ASKED.format("bare")]
    same = Attribute("x", (Group("a", ("a person",)), Group("b", ("{prompt}, a person",))))
    with pytest.raises(DebiasError, match="alike"):
        Asked(Says([]), same)


@pytest.mark.parametrize("prompt, asked", [
    ("a photo of a (doctor:1.2), bokeh", ASKED.format("a doctor")),
    ("engineer", ASKED.format("an engineer")),
    ("<lora:x:0.8>", "Does this image show anything? Answer yes or no."),
    ("masterpiece and best quality and sharp focus",  # without a subject
     "Does this image show masterpiece and best quality and sharp focus? Answer yes or no.")])
def test_fidelity_asks_whether_the_person_is_what_the_prompt_is_about(prompt, asked, models, monkeypatch):
    model = next(iter(models.values()))
    said = []
    monkeypatch.setattr(model, "yes", lambda images, question: said.append(question) or np.zeros(len(images)))
    model.similarity([picture(0)], prompt)
    assert said == [asked]


@pytest.mark.skipif("vilt" not in KINDS, reason="this version of transformers has no ViLT")
def test_a_model_that_does_not_choose_between_yes_and_no_is_refused(tmp_path):
    vilt(tmp_path, answers=("red", "yes", "two"))
    with pytest.raises(DebiasError, match="neither yes nor no"):
        AskingModel(tmp_path)


def test_a_folder_of_another_model_or_of_nothing_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(DebiasError, match=tmp_path.name):
        AskingModel(tmp_path)
    build("vit", tmp_path)
    with pytest.raises(DebiasError) as refused:
        AskingModel(tmp_path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600


def test_answers_that_overflow_are_refused_instead_of_counted(folders, images):
    model = AskingModel(folders["vilt"])
    for weight in model.model.parameters():
        weight.data.fill_(float("nan"))
    with pytest.raises(DebiasError, match="float32"):
        model.yes(images[:1], MAN)


def test_a_tokenizer_that_knows_no_yes_is_refused(tmp_path, images):
    llava(tmp_path, words_of(["<image>"], words=("no", "No")))
    with pytest.raises(DebiasError, match="'yes'"):
        AskingModel(tmp_path).yes(images[:1], MAN)


def pieces():
    """A tokenizer of pieces, as LLaMA's: a space before a word is a token of its own."""
    from tokenizers import Regex, normalizers, pre_tokenizers
    tokenizer = words_of(["<image>"], words=("▁▁", "▁yes", "▁Yes", "▁no", "▁No"))
    inner = tokenizer.backend_tokenizer
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("▁▁(?=[A-Za-z])|▁?[A-Za-z]+|[^A-Za-z]"), "isolated")
    return tokenizer


def test_a_token_that_begins_yes_and_no_alike_is_no_answer(tmp_path, images):
    llava(tmp_path, pieces())
    model = AskingModel(tmp_path)
    ids = model.tokenizer.convert_tokens_to_ids
    assert model.tokenizer(" yes", add_special_tokens=False)["input_ids"][0] == ids("▁▁") != ids("<unk>")
    with torch.no_grad():
        p = model.model(**inputs_of(model, images[0], model._worded(MAN))).logits[0, -1].softmax(-1)
    yes, no = (float(p[[ids(f"▁{word}") for word in own]].sum()) for own in (("yes", "Yes"), ("no", "No")))
    assert model.yes(images[:1], MAN) == pytest.approx([yes / (yes + no)], abs=1e-5)


def test_a_folder_is_opened_as_what_its_configuration_says(folders, tmp_path):
    for kind, folder in folders.items():
        assert isinstance(named.open_model(folder), AskingModel), kind
    (tmp_path / "clip").mkdir()
    build("clip", tmp_path / "clip")
    assert isinstance(named.open_model(tmp_path / "clip"), ClipModel)
    found = named.open_model(trained(tmp_path / "trained", ("Male", "Female")))
    assert isinstance(found, named.Trained)
    assert found.classifier(GENDER)([picture(0)]).shape == (1, 2)
