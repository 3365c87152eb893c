"Card and gallery from outside: of runs of pictures and MFCCs, of films with sound, and of runs that lack something."
import io
import re
import shutil

import numpy as np
import pytest
import torch

from moosa.core import InputError
from moosa.data.catalogue import create_dataset
from moosa.evaluation.openset import Predictions
from moosa.evaluation.sources import Sources
from moosa.explore.media import ClipMedia
from moosa.explore.opened import OpenRun, open_run

KNOWN = ["running", "swimming", "eating"]


def predictions(clips: list[str], labels: list[int], seed: int, modalities=("video", "audio", "flow")) -> Predictions:
    "Made-up predictions with embeddings that tell the first three classes apart."
    g = torch.Generator().manual_seed(seed)
    labels, centres = torch.tensor(labels), torch.eye(4, 6)
    embeddings = {m: centres[labels] + .2*torch.randn(len(labels), 6, generator=g) for m in modalities}
    logits = {m: 4*e[:, :3] for m, e in embeddings.items()}
    missing = {f"zero/{'+'.join(o for o in modalities if o != m)}": logits[m].roll(1, dims=1) for m in modalities}
    fused = sum(logits.values())
    return Predictions(fused, logits, labels, clips, embeddings, missing if len(modalities) > 1 else {})


def run_of(clips: list[str], labels: list[int], source: list[str], opens=None, modalities=("video", "audio", "flow")):
    "A finished run of three known classes and one unknown one, as one opens it."
    validation = predictions(source, [i % 3 for i in range(len(source))], 1, modalities)
    run = OpenRun(predictions(clips, labels, 0, modalities), Sources(validation), KNOWN, ["drinking"], name="films")
    if opens: run.media = ClipMedia(opens, modalities)
    return run


@pytest.fixture
def films(generated) -> OpenRun:
    "A run on mini-HAC: one clip of each of four classes."
    data = create_dataset("mini-hac", generated)
    names = [f"cartoon/cartoon-{name}-000" for name in (*KNOWN, "drinking")]
    assert set(names) <= set(data.clips["clip"])
    source = [f"human/human-{name}-000" for name in KNOWN]
    return run_of(names, [0, 1, 2, 3], source, lambda: create_dataset("mini-hac", generated))


def heard_and_seen(film: bytes) -> tuple[np.ndarray, int]:  # samples, how many frames
    import av

    with av.open(io.BytesIO(film)) as file: sound = np.concatenate([f.to_ndarray()[0] for f in file.decode(audio=0)])
    with av.open(io.BytesIO(film)) as file: return sound, sum(1 for _ in file.decode(video=0))


def test_films_with_sound(films, generated):
    "Film and sound lie in one file and are of one length; flow follows; the spectrogram is as long as the sound."
    view = films.card("cartoon/cartoon-running-000")
    view.widget
    video, flow, audio = view.player.parts
    assert [(p["modality"], p["kind"]) for p in (video, flow, audio)] == [
        ("video", "film"), ("flow", "film"), ("audio", "spectrogram")]
    data = create_dataset("mini-hac", generated)
    clip = next(data.clips[data.clips["clip"] == view.clip].itertuples())
    sound, frames = heard_and_seen(video["data"])
    medium, wave = data.media(clip, "video"), data.media(clip, "audio").read()
    assert frames == medium.frames and abs(len(sound)/16000 - frames/medium.fps) < .2
    assert audio["seconds"] == pytest.approx(len(wave)/16000)
    lag = np.argmax(np.correlate(np.abs(sound[:32000]), np.abs(wave[:30000]), "valid"))
    assert lag < 1600, "the sound begins where the film does"  # a tenth of a second
    assert "What each head said" in view.tables.value and view.tables.value.count("<img") == 3
    assert "domain: cartoon" in view.head.value


def test_a_film_that_browsers_play_goes_as_it_is(tmp_path):
    import av

    from moosa.data.browser import encoded
    from moosa.data.folder import FolderData

    picture = np.full((30, 64, 64, 3), 90, np.uint8)
    for domain in "ab":
        (tmp_path/domain/"x").mkdir(parents=True)
        (tmp_path/domain/"x"/"one.mp4").write_bytes(encoded(iter(picture), 15, np.sin(np.arange(32000)/9)*.3))
    media = ClipMedia(lambda: FolderData(tmp_path), ["video", "audio"])
    film, spectrogram = media.parts("a/x/one")
    assert film.data == (tmp_path/"a"/"x"/"one.mp4").read_bytes() and film.note == "the file as it is"
    assert spectrogram.kind == "spectrogram" and 1.8 < spectrogram.seconds < 2.2
    with av.open(io.BytesIO(film.data)) as file: assert file.streams.audio


def test_a_clip_whose_film_is_gone(films, generated, tmp_path):
    "What is left is shown, and what is gone is named."
    shutil.copytree(generated, tmp_path/"data", symlinks=True)
    for path in (tmp_path/"data").rglob("cartoon-running-000.mp4"): path.unlink()
    films.media = ClipMedia(lambda: create_dataset("mini-hac", tmp_path/"data"), ["video", "audio", "flow"])
    view = films.card("cartoon/cartoon-running-000")
    view.widget
    kinds = {p["modality"]: (p["kind"], p["note"]) for p in view.player.parts}
    assert kinds["video"][0] == "nothing" and "cartoon-running-000.mp4: missing" in kinds["video"][1]
    assert kinds["audio"][0] == "spectrogram" and kinds["flow"][0] == "film"
    gallery = films.gallery("disagree")
    gallery.widget
    assert all(tile["picture"] for tile in gallery.grid.tiles), "another modality stands for the film"
    assert view.save(tmp_path/"card.png").stat().st_size > 10_000


def test_data_that_are_gone(tmp_path):
    def gone(): raise InputError("mini-hac is not there. `moosa data get mini-hac` makes it.")

    run = run_of(["a", "b"], [0, 3], ["s", "t", "u"], gone)
    view = run.card("b")
    view.widget
    assert [p["note"] for p in view.player.parts] == ["mini-hac is not there. `moosa data get mini-hac` makes it."]
    for told in ("What each head said", "Nearest source clips", "Without each modality", ">video<", "zero"):
        assert told in view.tables.value, told
    assert list(run.gallery("disagree").known) == ["class"]
    assert "open_run(&#x27;films&#x27;).card(clip=&#x27;b&#x27;" in view.save(tmp_path/"card.html").read_text()


def test_one_modality_and_no_embeddings():
    run = run_of(["a", "b"], [0, 3], ["s", "t", "u"], modalities=("video",))
    run.target.embeddings = {}
    view = run.card("a")
    view.widget
    assert "has kept no embeddings" in view.tables.value and "has one modality" in view.tables.value
    assert view.player.parts[0]["note"] == "this run has no data to show."


def test_names_are_not_html():
    evil = "<img src=x onerror=alert(1)>"
    run = run_of([evil, "b"], [0, 3], [evil + "s", "t", "u"])
    run.table.loc[0, ["class", "said", "fused said"]] = "<b>class"
    view = run.card(evil)
    view.widget
    shown = view.head.value + view.tables.value
    assert "<img src=x" not in shown and "<b>class" not in shown and "&lt;img" in shown and "&lt;b&gt;class" in shown
    gallery = run.gallery("disagree")
    gallery.widget  # its script makes text nodes of them
    assert {tile["clip"] for tile in gallery.grid.tiles} == {evil, "b"} and "innerHTML" not in gallery.grid._esm
    gallery.figure(), view.figure()


def test_a_card_follows_what_is_selected(films):
    view = films.card()
    view.widget
    assert view.head.value == "No clip is selected." and view.player.parts == []
    films.selected = ("no such clip", "cartoon/cartoon-eating-000", "cartoon/cartoon-running-000")
    assert "cartoon-eating-000" in view.head.value and len(view.player.parts) == 3
    films.threshold = 2.
    assert "rejected" in view.head.value
    films.selected = ()
    assert view.head.value == "No clip is selected."
    with pytest.raises(InputError, match="'cartoon' is none of the 4 target clips"): films.card("cartoon")


def test_the_order_of_a_gallery():
    "Of constructed predictions one knows which clip is first."
    # clip -> label, logit of class 0
    sure = {"u1": (3, 9.), "u2": (3, 2.), "k1": (0, 1.), "k2": (0, .2), "k3": (1, 8.)}
    fused = torch.tensor([[x, 0., 0.] for _, x in sure.values()])
    other = fused.clone()
    other[1] = torch.tensor([0., 5., 0.])  # about u2, heads do not agree
    labels = torch.tensor([label for label, _ in sure.values()])
    target = Predictions(fused, {"video": other, "audio": fused}, labels, list(sure))
    source = predictions(["s", "t", "u"], [0, 1, 2], 1, ("video", "audio"))
    run = OpenRun(target, Sources(source), KNOWN, ["drinking"], name="built")
    run.threshold = .7
    first = {of: list(run.gallery(of).clips()["clip"]) for of in ("accepted", "rejected", "disagree", "surely wrong")}
    assert first["accepted"] == ["u1", "u2"] and first["rejected"] == ["k2", "k1"]
    assert first["surely wrong"] == ["u1", "k3", "u2"] and first["disagree"][0] == "u2"
    run.threshold = .99
    assert list(run.gallery("accepted").clips()["clip"]) == ["u1"]
    assert list(run.gallery("rejected", {"class": "swimming"}).clips()["clip"]) == []


def test_a_closed_set():
    "Without unknown clips none is accepted wrongly, and the rest is as ever."
    run = run_of(["a", "b"], [0, 1], ["s", "t", "u"])
    assert run.gallery("accepted").clips().empty and len(run.gallery("disagree").clips()) == 2
    view = run.card("a")
    view.widget
    assert "running → " in view.head.value and "(unknown)" not in view.head.value


def test_digits_can_be_seen_and_read(two_runs, tmp_path):
    "A run from the command line: its speech has no waveform, and the card says so; who speaks can be asked for."
    name = next(p.name for p in sorted((two_runs/"runs").iterdir()) if p.is_dir())
    run = open_run(name, two_runs)
    gallery = run.gallery("disagree")
    gallery.widget
    assert gallery.grid.tiles == [] and "one head" in gallery.head.value  # ERM trains no other
    speaker = gallery.known["speaker"].iloc[0]
    gallery = run.gallery("surely wrong", {"speaker": speaker})
    gallery.widget
    assert gallery.grid.tiles and all(speaker in tile["clip"] for tile in gallery.grid.tiles)
    gallery.open(gallery.grid.tiles[0]["clip"])
    view = run.card()
    view.widget
    assert f"speaker: {speaker}" in view.head.value
    image, speech = view.player.parts
    assert (image["kind"], speech["kind"]) == ("picture", "picture") and "no waveform" in speech["note"]
    assert view.tables.value.count("data:image/png") == 5
    for kind in ("png", "svg", "pdf", "html"): assert view.save(tmp_path/f"card.{kind}").stat().st_size > 5000
    assert re.fullmatch(rf"open_run\('{name}'\)\.card\(near=5\)", view.code)
    with pytest.raises(InputError, match="Did you mean 'speaker'"): run.gallery(where={"speker": "theo"})
