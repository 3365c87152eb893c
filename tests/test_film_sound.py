"""The sound inside films: read for the modality audio, together with the picture, and written beside the films."""
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from moosa.cli import app
from moosa.data.audio import make_audio
from moosa.data.doctor import examine
from moosa.data.folder import FolderData
from moosa.data.badclip import BadClip
from moosa.data.media import write_video
from moosa.data.sounds import FilmSound, SoundFile

SECONDS = 2


def film_with_sound(path: Path, codec="aac", rate=44100, layout="stereo", film="libx264", first_picture=0.0,
                    first_sound=0.0) -> Path:
    """The sound's pitch tells the time: 400 Hz at 0 s of the recording, 400 more each second.

    The picture begins at `first_picture`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if codec not in av.codecs_available: pytest.skip(f"this PyAV does not encode {codec}")
    with av.open(str(path), "w") as out:
        pictures, sound = out.add_stream(film, rate=25), out.add_stream(codec, rate=rate, layout=layout)
        pictures.height, pictures.width, pictures.pix_fmt = 64, 64, "yuv420p"
        wanted, channels = sound.codec_context.format.name, sound.codec_context.layout.nb_channels
        to_format = av.AudioResampler(format=wanted, layout=layout, rate=rate)
        for n in range(round(25*(SECONDS - first_picture))):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 4*n, np.uint8), format="rgb24")
            frame.pts, frame.time_base = n + round(25*first_picture), Fraction(1, 25)
            out.mux(pictures.encode(frame))
        t = np.arange(round(first_sound*rate), SECONDS*rate)
        wave = np.sin(2*np.pi*(400*t/rate + 200*(t/rate)**2))/2
        for at in range(0, len(wave), 960):
            frame = av.AudioFrame.from_ndarray(np.repeat(np.float32(wave[None, at:at + 960]), channels, 0),
                                               format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, at + round(first_sound*rate), Fraction(1, rate)
            for part in to_format.resample(frame): out.mux(sound.encode(part))
        for stream in (pictures, sound): out.mux(stream.encode())
    return path


def time_told(wave: np.ndarray) -> float:
    "The time in the recording, by the pitch, of the middle of a stretch of sound."
    power = np.abs(np.fft.rfft(wave*np.hanning(len(wave)), 16*len(wave)))
    return (power.argmax()/(16*len(wave)/16000) - 400)/400


@pytest.mark.parametrize("name, options", {
    "aac.mp4": {}, "mono.mp4": dict(layout="mono", rate=48000), "six.mp4": dict(layout="5.1", rate=48000),
    "mp3.avi": dict(codec="libmp3lame", film="mpeg4"), "pcm.avi": dict(codec="pcm_s16le", film="mpeg4", rate=16000),
    "opus.mkv": dict(codec="libopus", rate=48000), "opus.webm": dict(codec="libopus", film="libvpx-vp9", rate=48000),
    "aac.mov": dict(rate=22050), "flac.mkv": dict(codec="flac"),
    "late_picture.mp4": dict(first_picture=0.4), "late_sound.mkv": dict(first_sound=0.3),
    "late_picture.mkv": dict(first_picture=0.4),
}.items())
def test_sound_goes_with_the_picture(tmp_path, name, options):
    path = film_with_sound(tmp_path/name, **options)
    sound, begins = FilmSound(path), options.get("first_picture", 0)
    assert sound.seconds == pytest.approx(SECONDS - begins, abs=.12)
    for at in (0.4, 0.8, 1.2): assert time_told(sound.read(at, at + .1)) == pytest.approx(begins + at + .05, abs=.03)
    if late := options.get("first_sound"): assert np.abs(sound.read(0, late - .05)).max() < 1e-3
    assert make_audio(path, workers=1).status.tolist() == ["done"]
    wav = SoundFile(path.with_suffix(".wav"))  # 16 kHz, one channel
    assert wav.seconds == pytest.approx(sound.seconds, abs=.001)
    assert np.abs(wav.read(.5, 1) - sound.read(.5, 1))[50:-50].max() < 1e-3


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("own")
    for domain in ("sea", "lake"):
        for n in range(2): film_with_sound(root/domain/"run"/f"{n}.mp4")
    return root


def test_folders(tree):
    data = FolderData(tree)
    assert data.modalities == ("video", "audio")
    found = examine(data, workers=1)
    assert set(found.problem[found.level == "error"]) <= {"leak"}  # its films are copies of one
    x = data.load(data.clips[:1], ["video", "audio"])
    assert x["audio"].shape == (1, 1, 257, 1004) and float(x["audio"].std()) > .5


def test_a_domain_without_sound(tree, tmp_path):
    "Then the films are silent films."
    for domain in ("sea", "lake"): (tmp_path/domain).mkdir()
    (tmp_path/"sea"/"run").symlink_to(tree/"sea"/"run")
    write_video(tmp_path/"lake"/"run"/"0.mp4", np.zeros((5, 64, 64, 3), np.uint8))
    assert FolderData(tmp_path).modalities == ("video",)


def test_a_film_without_sound(tree, tmp_path):
    film = write_video(tmp_path/"mute.mp4", np.zeros((9, 64, 64, 3), np.uint8))
    (tmp_path/"manifest.csv").write_text("clip,class,domain,video,audio\na,run,sea,mute.mp4,mute.mp4\n")
    data, film = FolderData(tmp_path), tmp_path/"mute.mp4"
    with pytest.raises(BadClip, match="mute.mp4: silent: there is no sound in this film"):
        data.load(data.clips, ["audio"])
    found = examine(data, workers=1)
    assert found[found.level == "error"][["modality", "file",
                                          "problem"]].values.tolist() == [["audio", str(film), "silent"]]


def test_make_audio(tree, tmp_path):
    write_video(tmp_path/"sea"/"videos"/"mute.mp4", np.zeros((5, 64, 64, 3), np.uint8))
    (tmp_path/"sea"/"videos"/"whole.mp4").write_bytes((tree/"sea"/"run"/"0.mp4").read_bytes())

    def run(): return CliRunner().invoke(app, ["data", "make-audio", str(tmp_path), "--workers", "1"])

    result = run()
    assert result.exit_code == 1 and "mute.mp4: silent: there is no sound" in result.output
    assert "1 done" in result.output
    wav = tmp_path/"sea"/"audio"/"whole.wav"
    before = wav.stat().st_mtime_ns
    assert "1 there" in run().output and wav.stat().st_mtime_ns == before
    assert [p.name for p in wav.parent.iterdir()] == ["whole.wav"]


def test_data_check_takes_data_options(tmp_path):
    import soundfile

    (tmp_path/"sea"/"run").mkdir(parents=True)
    soundfile.write(tmp_path/"sea"/"run"/"a.wav", np.sin(np.arange(9999)/9), 44100)

    def check(*more):
        return CliRunner().invoke(app, ["data", "check", str(tmp_path), "--workers", "1",
                                        "--out", str(tmp_path/"found.csv"), *more])

    assert check().exit_code == 1 and check("--data-options", "audio_format=convert").exit_code == 0
    assert "audio_format" in str(check("--data-options", "audio_format=other").exception)
    assert "frame_index" in str(check("--data-options", "frame_index=repaired").exception)
