"""Networks of timm and transformers as extractors: tiny ones that start at random, saved to a folder, loaded again."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conftest import call
from moosa.core import InputError, read_json
from moosa.places import open_store
from moosa.data.badclip import BadClip
from moosa.data.folder import FolderData
from moosa.data.sounds import write_sound
from moosa.data.views import View
from moosa.extractors.backbones import FAMILIES, Rest, example
from moosa.extractors.entries import check_extractor, find_extractor, tail_start
from moosa.extractors.features import computing_modules
from moosa.extractors.processors import MelRecipe, WaveRecipe, log_mel, mel_recipe, wave_recipe
from moosa.extractors.registry import create_extractor
from moosa.runs.fingerprint import changes, weights_facts
from moosa.runs.given import spec_from
from moosa.runs.resolve import differs_from_live
from moosa.runs.spec import spec_hash

PICTURES = dict(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, image_mean=[.5]*3, image_std=[.25]*3)
MELS = dict(sampling_rate=16000, num_mel_bins=32, max_length=64, mean=-4.0, std=4.5)
WAVES = dict(sampling_rate=16000, do_normalize=True)
SMALL = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
SQUARE = dict(image_size=32, patch_size=16, **SMALL)
CONVS = dict(conv_dim=(16,)*3, conv_kernel=(10, 8, 4), conv_stride=(8, 8, 5), num_conv_pos_embeddings=8,
             num_conv_pos_embedding_groups=2, **SMALL)
NETS = {  # name -> model's class, configuration's, what it is told, its processor, what the embedding is
    "videomae": ("VideoMAEModel", "VideoMAEConfig", dict(num_frames=4, **SQUARE), PICTURES, "mean"),
    "timesformer": ("TimesformerModel", "TimesformerConfig", dict(num_frames=4, **SQUARE), PICTURES, "first"),
    "vivit": ("VivitModel", "VivitConfig", dict(image_size=32, num_frames=4, tubelet_size=[2, 16, 16], **SMALL),
              {**PICTURES, "offset": True, "rescale_factor": 1/127.5}, "first"),
    "vit": ("ViTModel", "ViTConfig", SQUARE, {**PICTURES, "size": 32}, "first"),
    "dinov2": ("Dinov2Model", "Dinov2Config", dict(image_size=32, patch_size=16, hidden_size=24, num_hidden_layers=3,
                                                   num_attention_heads=2), PICTURES, "pooler_output"),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", SQUARE, PICTURES, "pooler_output"),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", SQUARE, PICTURES, "pooler_output"),
    "ast": ("ASTModel", "ASTConfig", dict(patch_size=16, max_length=64, num_mel_bins=32, frequency_stride=16,
                                          time_stride=16, **SMALL), MELS, "pooler_output"),
    "wav2vec2": ("Wav2Vec2Model", "Wav2Vec2Config", CONVS, WAVES, "mean"),
    "wav2vec2-stable": ("Wav2Vec2Model", "Wav2Vec2Config", dict(do_stable_layer_norm=True, feat_extract_norm="layer",
                                                                **CONVS), WAVES, "mean"),
    "wavlm": ("WavLMModel", "WavLMConfig", CONVS, WAVES, "mean"),
}


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def saved(transformers, tmp_path_factory):
    "A function of a name in NETS: the folder of such a network."
    root = tmp_path_factory.mktemp("networks")

    def save(name: str) -> Path:
        kind, config, told, processor, _ = NETS[name]
        if not (root/name).exists():
            torch.manual_seed(0)
            getattr(transformers, kind)(getattr(transformers, config)(**told)).save_pretrained(root/name)
            (root/name/"preprocessor_config.json").write_text(json.dumps(processor))
        return root/name

    return save


def own_embedding(transformers, name: str, folder: Path, x: torch.Tensor) -> torch.Tensor:
    "What the library's own model makes of a batch, by the rule of the family."
    kind, _, _, _, rule = NETS[name]
    net = getattr(transformers, kind).from_pretrained(folder).eval()
    clips, frames = len(x), 1
    if FAMILIES[net.config.model_type].sees == "picture": frames = x.shape[2]
    if x.ndim == 5: x = x.transpose(1, 2)
    else: x = x[:, 0].transpose(1, 2) if x.ndim == 4 else x[:, 0]
    out = net(x.flatten(0, 1) if frames > 1 else x)
    if rule == "pooler_output": y = out.pooler_output
    else: y = out.last_hidden_state.mean(1) if rule == "mean" else out.last_hidden_state[:, 0]
    return y.reshape(clips, frames, -1).mean(1)


RARE = ("timesformer", "vivit", "dinov2", "wav2vec2", "wavlm")


@torch.no_grad()
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in RARE else []) for n in NETS])
def test_an_extractor_gives_what_the_library_gives(transformers, saved, name):
    folder = saved(name)
    recipe = find_extractor(f"transformers:{folder}").recipe
    x = torch.cat([example(recipe, seed) for seed in (0, 1)])
    expected = own_embedding(transformers, name, folder, x)
    whole = create_extractor(f"transformers:{folder}", "pretrained", frozen_stem=True).eval()
    torch.testing.assert_close(whole(x), expected, rtol=1e-4, atol=1e-5)
    assert whole.dim == 24 and not any(p.requires_grad for p in whole.parameters()) and whole.cacheable
    random = create_extractor(f"transformers:{folder}", "random").eval()
    assert (random(x) - expected).abs().max() > 1e-2
    if name in ("siglip", "wavlm"):
        with pytest.raises(InputError, match="Leave .last out"):
            create_extractor(f"transformers:{folder}+last1", "pretrained")
        return
    cut = create_extractor(f"transformers:{folder}+last2", "pretrained", frozen_stem=True).eval()
    torch.testing.assert_close(cut.from_features(cut.features(x)), expected, rtol=1e-3, atol=1e-4)
    assert all(p.requires_grad for p in cut.tail.parameters()) and len(cut.tail.blocks) == 2
    assert not any(p.requires_grad for p in cut.stem.parameters())
    with pytest.raises(InputError, match="it has 3, and the stem needs one"):
        create_extractor(f"transformers:{folder}+last3", "pretrained")


def test_all_of_it_can_be_trained(saved):
    net = create_extractor(f"transformers:{saved('vit')}", "pretrained", frozen_stem=False)
    net(torch.randn(2, 3, 8, 32, 32)).square().sum().backward()
    trained = [p for name, p in net.named_parameters() if "mask_token" not in name]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


@torch.no_grad()
def test_pictures_as_a_data_set_gives_them(saved):
    net = create_extractor(f"transformers:{saved('vit')}", "pretrained").eval()
    grey = torch.rand(2, 1, 20, 24)
    torch.testing.assert_close(net(grey), net(grey.expand(-1, 3, -1, -1)))
    with pytest.raises(InputError, match=r"takes \(clips, 3, frames, height, width\).*found \(2, 2, 8, 32, 32\)"):
        net(torch.zeros(2, 2, 8, 32, 32))  # flow


def test_no_weights_start_at_random_unasked(saved, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path/"net"
    shutil.copytree(saved("vit"), folder)
    tensors = load_file(folder/"model.safetensors")
    first = next(name for name in tensors if name.endswith("weight") and "layer" in name)
    save_file({name: t for name, t in tensors.items() if name != first}, folder/"model.safetensors",
              {"format": "pt"})
    with pytest.raises(InputError, match="not those of this ViTModel: 1 are missing or of another shape"):
        create_extractor(f"transformers:{folder}", "pretrained")
    save_file({**tensors, first: torch.zeros(3)}, folder/"model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"the weights in {folder} cannot be read|of another shape"):
        create_extractor(f"transformers:{folder}", "pretrained")
    (folder/"model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot be read"): create_extractor(f"transformers:{folder}", "pretrained")
    (folder/"model.safetensors").unlink()
    with pytest.raises(InputError, match="holds no weights.*weights=random"):
        create_extractor(f"transformers:{folder}", "pretrained")
    create_extractor(f"transformers:{folder}", "random")  # they are not needed
    (folder/"preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="holds no preprocessor_config.json"): find_extractor(f"transformers:{folder}")
    (folder/"config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="'bert', for which moosa has no rule. Expected one of: videomae"):
        find_extractor(f"transformers:{folder}")
    with pytest.raises(InputError, match="there is no folder"): find_extractor(f"transformers:{tmp_path/'none'}")


# --- how data are looked at ------------------------------------------------------------------------------------------

def chirp(seconds: float) -> np.ndarray:
    t = np.arange(int(16000*seconds))/16000
    return np.sin(2*np.pi*(300*t + 900*t**2))/2 + np.random.default_rng(0).normal(0, .01, len(t))


@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.parametrize("seconds", [.3, 2, 12])
def test_sounds_look_as_to_the_library(transformers, seconds):
    wave = chirp(seconds)
    theirs = transformers.ASTFeatureExtractor()
    ours = mel_recipe(theirs.to_dict()).see(wave)
    expected = theirs(wave, sampling_rate=16000, return_tensors="np")["input_values"][0]
    np.testing.assert_allclose(ours[0].T, expected, atol=2e-3)
    assert ours.shape == (1, 128, 1024)
    theirs = transformers.Wav2Vec2FeatureExtractor()
    expected = theirs(np.resize(wave, 160000), sampling_rate=16000, return_tensors="np")["input_values"]
    np.testing.assert_allclose(wave_recipe(theirs.to_dict()).see(wave), expected, atol=1e-5)


def test_sound_files_through_the_recipes(tmp_path):
    for domain in "ab":
        for name in "xyz": write_sound(tmp_path/domain/name/"0.wav", chirp(1.5))
    for recipe, shape in ((MelRecipe(mels=32, windows=64), (1, 32, 64)), (WaveRecipe(), (1, 160000)),
                          (WaveRecipe(rate=24000, samples=48000), (1, 48000))):
        data = FolderData(tmp_path, recipes={"audio": recipe})
        x = data.load(data.clips.iloc[:2], ["audio"])["audio"]
        assert x.shape == (2, *shape) and torch.isfinite(x).all()
    assert log_mel(chirp(1), 16000, 128).shape == (98, 128)


@torch.no_grad()
def test_picture_files_of_any_size(saved, tmp_path):
    lines, rng = ["clip,domain,class,image"], np.random.default_rng(0)
    for name, shape in {"a": (3, 20, 24), "b": (1, 40, 33)}.items():
        np.save(tmp_path/f"{name}.npy", rng.random(shape))
        lines.append(f"{name},d,x,{name}.npy")
    np.save(tmp_path/"c.npy", np.full((3, 8, 8), 255.))
    (tmp_path/"manifest.csv").write_text("\n".join([*lines, "c,d,x,c.npy"]))
    network = f"transformers:{saved('vit')}"
    data = FolderData(tmp_path, recipes={"image": find_extractor(network).recipe})
    x = data.load(data.clips.iloc[:2], ["image"])["image"]
    assert x.shape == (2, 3, 1, 32, 32) and create_extractor(network).eval()(x).shape == (2, 24)
    assert data.load(data.clips.iloc[:2], ["image"], View(0, 0))["image"].shape == x.shape
    with pytest.raises(BadClip, match=r"c\.npy.*is no picture: expected"): data.load(data.clips.iloc[2:], ["image"])


# --- names, and what they stand for ----------------------------------------------------------------------------------

def test_looking_imports_no_library():
    code = ("import sys; from moosa.runs.given import spec_from; from moosa.runs.fingerprint import weights_facts; "
            "from moosa.places import open_store; s = spec_from(dict(dataset='mini-hac', target='human', "
            "modalities=['video', 'audio'], extractors=dict(video='transformers:a/b@main+last2', audio='timm:x'))); "
            "weights_facts(s, open_store('/nowhere')); "
            "print(*{'torch', 'transformers', 'timm', 'torchvision', 'numpy'} & set(sys.modules))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def spec_of(weights="pretrained", **extractors):
    return spec_from(dict(dataset="mini-hac", target="human", modalities=list(extractors), extractors=extractors,
                          weights=weights))


def test_a_folder_is_one_wherever_one_stands(saved, monkeypatch):
    folder = saved("videomae")
    monkeypatch.chdir(folder.parent)
    spec = spec_of(video="transformers:./videomae+last1")
    assert spec.extractors == {"video": f"transformers:{folder.resolve()}+last1"}
    monkeypatch.chdir("/")
    assert spec_hash(spec) == spec_hash(spec_of(video=f"transformers:{folder}+last1")) != spec_hash(
        spec_of(video=f"transformers:{folder}"))
    kept = spec_from({**{f: getattr(spec, f) for f in ("dataset", "target", "modalities", "extractors")},
                      "features": "embedding", "weights": "random"})
    said = " ".join(differs_from_live(kept))
    assert "have random weights (video)" in said and "(video: random weights)" in said
    assert tail_start(f"transformers:{folder}", "pretrained") == f"weights of transformers:{folder}"
    assert check_extractor(f"transformers:{folder}") is None


def test_what_a_run_started_from_is_known_by_its_contents(saved, tmp_path):
    folder = tmp_path/"net"
    shutil.copytree(saved("vit"), folder)
    store = tmp_path/"data"
    trained, random = (spec_of(weights, video=f"transformers:{folder}") for weights in ("pretrained", "random"))

    def facts(spec): return weights_facts(spec, open_store(store))

    before, before_random = facts(trained), facts(random)
    assert (before["video"]["files"], before_random["video"]["files"]) == (3, 2) and facts(trained) == before
    (folder/"model.safetensors").write_bytes((folder/"model.safetensors").read_bytes() + b" ")
    assert changes(before, facts(trained)) and not changes(before_random, facts(random))
    about = read_json(folder/"preprocessor_config.json")
    (folder/"preprocessor_config.json").write_text(json.dumps({**about, "image_mean": [.4]*3}))
    assert changes(before_random, facts(random))


def test_a_repository_is_known_by_its_commit(saved, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    place = tmp_path/"models--me--net"
    shutil.copytree(saved("vit"), place/"snapshots"/"0a1b2c")
    (place/"refs").mkdir()
    (place/"refs"/"main").write_text("0a1b2c")
    spec = spec_of(video="transformers:me/net")
    assert spec.extractors == {"video": "transformers:me/net"}
    facts = weights_facts(spec, open_store(tmp_path/"data"))
    assert facts == {"video": {"repository": "me/net", "revision": "0a1b2c"}}
    assert create_extractor("transformers:me/net", "pretrained").dim == 24  # nobody was asked
    assert create_extractor("transformers:me/net@0a1b2c", "pretrained").dim == 24
    shutil.copytree(place/"snapshots"/"0a1b2c", place/"snapshots"/"3d4e5f")
    (place/"refs"/"main").write_text("3d4e5f")
    assert changes(facts, weights_facts(spec, open_store(tmp_path/"data"))) == [
        "video revision was 0a1b2c, is 3d4e5f"]
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(InputError, match="me/other cannot be had from the hub .offline."):
        find_extractor("transformers:me/other")


def test_a_library_that_is_not_there(saved, tmp_path, monkeypatch):
    folder = saved("vit")
    with monkeypatch.context() as m:
        m.setitem(sys.modules, "transformers", None)
        with pytest.raises(InputError, match="transformers is not installed.*pip install"):
            create_extractor(f"transformers:{folder}", "pretrained")
    (tmp_path/"timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.split(".")[0] == "timm"]: monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match="timm cannot be imported: operator torchvision::nms.*must be built for this"):
        find_extractor("timm:vit_tiny_patch16_224")


def test_kept_features_know_the_librarys_version(transformers, saved):
    net = create_extractor(f"transformers:{saved('ast')}", "pretrained")
    modules = computing_modules(FolderData, net.stem, recipe=net.stem[0].recipe)
    assert f"transformers=={transformers.__version__}" in modules
    assert {"moosa.extractors.backbones", "moosa.extractors.processors"} <= set(modules)
    assert not [m for m in modules if m.startswith("transformers.")]


# --- timm ------------------------------------------------------------------------------------------------------------

STAND_IN = '''
import types
import torch
from torch import nn


class Vit(nn.Module):
    global_pool, num_prefix_tokens, num_features = "token", 1, 8

    def __init__(self):
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 8, 16, 16), nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.Sequential(*(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(3)))
        self.norm, self.fc_norm = nn.LayerNorm(8), nn.Identity()

    def forward_features(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), self.patch(x).flatten(2).transpose(1, 2)], 1)
        return self.norm(self.blocks(x))

    def forward(self, x): return self.fc_norm(self.forward_features(x)[:, 0])


said = dict(input_size=(3, 32, 32), mean=(.5, .5, .5), std=(.5, .5, .5), crop_pct=.9)
def list_models(): return ["vit_stand_in"]
def get_pretrained_cfg(name, allow_unregistered): return types.SimpleNamespace(to_dict=lambda: said)
def create_model(name, pretrained, num_classes):
    if pretrained: raise RuntimeError("No pretrained weights exist")
    return Vit()
'''


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    "A module in timm's place: what moosa asks of it, and no more."
    (tmp_path/"timm.py").write_text(STAND_IN)
    (tmp_path/"timm-1.0.dist-info").mkdir()
    (tmp_path/"timm-1.0.dist-info"/"METADATA").write_text("Metadata-Version: 2.1\nName: timm\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.split(".")[0] == "timm"]: monkeypatch.delitem(sys.modules, name)
    yield
    sys.modules.pop("timm", None)


def timm_there() -> str:  # why not; '' if it is
    try: import timm  # noqa: F401
    except Exception as e: return f"timm is not here, or not with a torchvision that fits torch: {e}"
    return ""


def check_timm(name: str, frames: int, size: int):
    "A network of timm, whole and cut."
    torch.manual_seed(0)
    whole = create_extractor(f"timm:{name}", "random").eval()
    torch.manual_seed(0)
    cut = create_extractor(f"timm:{name}+last1", "random").eval()
    x = torch.randn(2, 3, frames, size, size)
    torch.testing.assert_close(cut(x), whole(x), rtol=1e-4, atol=1e-5)
    plain = torch.stack([whole.stem[0].network(x[:, :, t]) for t in range(frames)]).mean(0)
    torch.testing.assert_close(whole(x), plain, rtol=1e-4, atol=1e-5)
    assert isinstance(cut.tail, Rest) and len(cut.tail.blocks) == 1 and isinstance(whole.tail, nn.Identity)


@torch.no_grad()
def test_timm_by_a_stand_in(stand_in):
    recipe = find_extractor("timm:vit_stand_in.tag").recipe
    assert (recipe.crop, recipe.short_side, recipe.mean, recipe.length) == (32, 35, (127.5,)*3, 8)
    check_timm("vit_stand_in", 3, 32)
    assert "timm==1.0" in computing_modules(FolderData, create_extractor("timm:vit_stand_in").stem)
    with pytest.raises(InputError, match="Did you mean 'vit_stand_in'"): find_extractor("timm:vit_stand_im")
    with pytest.raises(InputError, match="No pretrained weights"): create_extractor("timm:vit_stand_in", "pretrained")
    with pytest.raises(InputError, match="a revision belongs to a repository"): find_extractor("timm:vit_stand_in@main")


@torch.no_grad()
def test_timm_itself():
    if why := timm_there(): pytest.skip(why)
    check_timm("vit_tiny_patch16_224", 1, 224)
    check_timm("deit_tiny_patch16_224", 1, 224)
    with pytest.raises(InputError, match="not known to be a chain"): create_extractor("timm:resnet18+last1")
    net = create_extractor("timm:resnet18", "random", frozen_stem=True, frozen_bn="train").eval()
    assert net(torch.randn(2, 3, 1, 224, 224)).shape == (2, net.dim) == (2, 512)


# --- to the end ------------------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize("features", ["live", "stem", "embedding"])
def test_a_run_on_mini_hac(generated, saved, tmp_path, features):
    (tmp_path/"raw").mkdir()
    (tmp_path/"raw"/"mini-hac").symlink_to(generated/"raw"/"mini-hac")
    last = "" if features == "embedding" else "+last1"
    words = ["run", "--dataset", "mini-hac", "--target", "cartoon", "--sources", "human", "--modalities", "video,audio",
             "--extractors", f"video=transformers:{saved('videomae')}{last}",
             "--extractors", f"audio=transformers:{saved('ast')}{last}",
             "--weights", "pretrained", "--features", features, "--frozen-stems", "--frozen-bn", "eval",
             "--method", "erm", "--epochs", 1, "--batch-size", 4, "--data-dir", tmp_path]
    if features != "live": words += ["--views", 2]
    done = call(*words)
    assert done.returncode == 0, done.stderr + done.stdout
    (run,) = (tmp_path/"runs").iterdir()
    record = read_json(run/"record.json")
    started = record["fingerprint"]["weights"]
    assert {m: facts["files"] for m, facts in started.items()} == {"video": 3, "audio": 3}
    assert record["environment"]["transformers"] and 0 <= record["results"]["accuracy"]["fused"] <= 1
    assert "done" in call(*words).stdout  # and the second time it is
    listed = call("cache", "list", "--data-dir", tmp_path).stdout
    if features != "live": assert "transformers:" in listed and "other code" not in listed
