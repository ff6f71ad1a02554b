"""Fingerprints: what moves one, what never does, and those of the shipped presets, written out."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.common.errors import UsageError
from harness.config import input_digests, plugins
from harness.config.compose import Config, compose
from harness.plan.job import GIVEN, Evaluate, Job, Train, digest
from harness.plan.spec import to_json

DECODERS = ("upernet", "decoder_a", "decoder_b")
TRAININGS = {f"train {name}" for name in DECODERS}
EVALUATIONS = {*DECODERS, "decoder_ab"}
ALL = TRAININGS | EVALUATIONS


def resolved(*overrides: str, preset: str = "demo", root: Path | None = None) -> Config:
    return input_digests.resolve(compose(preset, overrides), root)


def jobs_of(config: Config) -> dict[str, Job]:
    """The jobs of Table 1."""
    trainings = {name: Train(config, name) for name in DECODERS}
    evaluations: dict[str, Job] = {name: Evaluate((training,)) for name, training in trainings.items()}
    evaluations["decoder_ab"] = Evaluate((trainings["decoder_a"], trainings["decoder_b"]))
    return {**{f"train {name}": training for name, training in trainings.items()}, **evaluations}


def moved(one: Config, other: Config) -> set[str]:
    before, after = jobs_of(one), jobs_of(other)
    return {name for name in before if before[name].fingerprint != after[name].fingerprint}


def make_root(folder: Path, train: int = 2806, val: int = 343) -> Path:
    """As much of VSPW as planning reads: the split lists; the classes are the published ones."""
    folder.mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        (folder / f"{split}.txt").write_text("".join(f"{split}_{index:04d}\n" for index in range(count)))
    return folder


B = {"train decoder_b", "decoder_b", "decoder_ab"}
A = {"train decoder_a", "decoder_a", "decoder_ab"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("decoder.decoder_b.frames=3", B),
        ("decoder.decoder_b.tma_scale=true", B),
        ("decoder.decoder_a.momentum=0.5", A),
        ("decoder.decoder_a.first_frame=self2", A),
        ("decoder.decoder_a.control=no_context", A),
        ("decoder.decoder_b.control=current_past", B),
        ("decoder.upernet.channels=48", {"train upernet", "upernet"}),
        *((key, ALL) for key in ("seed=1", "precision=bf16", "train.lr=2e-3", "train.epochs=11", "train.batch=4")),
        *((key, ALL) for key in ("train.micro_batch=4", "train.warmup=3", "train.layer_decay=0.9", "train.crop=96")),
        *((key, ALL) for key in ("data.synthetic.noise=3", "encoder.beit.drop_path=0.1", "encoder.name=timm_pyramid")),
        *((key, EVALUATIONS) for key in ("evaluate.window=96", "evaluate.stride=32", "evaluate.short_side=80")),
        ("encoder.timm_pyramid.model=resnet18", set()),
        ("data.vspw.root=somewhere", set()),
    ],
)
def test_a_key_moves_the_jobs_that_depend_on_it_and_no_other(override: str, expected: set[str]) -> None:
    assert moved(resolved(), resolved(override)) == expected


@pytest.mark.parametrize(
    "override", ["train.workers=9", "train.checkpoint_every=7", "train.log_every=3", "train.micro_batch=8"]
)
def test_how_a_job_runs_moves_nothing(override: str) -> None:
    assert moved(resolved(), resolved(override)) == set()


def test_every_field_marked_where_moves_nothing() -> None:
    values = {int: "7", str: "'(x)'", bool: "true"}
    found = 0
    for section, kind in (("data", "datasets"), ("encoder", "encoders"), ("decoder", "decoders")):
        for name in plugins.names(kind):
            base = [f"{section}.name={name}"] if section != "decoder" else []
            known = plugins.read_schema(plugins.find(kind, name)).config
            for field in getattr(known, "__dataclass_fields__", {}).values():
                if field.metadata.get("where") and not field.metadata.get("content"):
                    value = values[type(field.default) if field.default is not None else str]
                    override = [*base, f"{section}.{name}.{field.name}={value}"]
                    assert moved(compose("demo", base), compose("demo", override)) == set()
                    found += 1
    assert found >= 5


@pytest.mark.parametrize("preset", ["demo", "paper"])
def test_the_whole_batch_written_out_as_micro_batch_is_the_default(preset: str) -> None:
    config = resolved(preset=preset)
    same = resolved(f"train.micro_batch={config.train.batch}", preset=preset)
    assert moved(config, same) == set()
    assert jobs_of(config)["train upernet"].spec().train.micro_batch == config.train.batch


def test_a_default_written_out_moves_nothing() -> None:
    written = [
        "data.name=synthetic",
        "decoder.decoder_b.frames=2",
        "encoder.beit.drop_path=0",
        "encoder.beit.weights=null",
    ]
    assert moved(resolved(), resolved(*written)) == set()


def test_weights_are_known_by_their_content(tmp_path: Path) -> None:
    here, there, other = tmp_path / "here.pt", tmp_path / "elsewhere" / "there.bin", tmp_path / "other.pt"
    there.parent.mkdir()
    for path, data in ((here, b"weights"), (there, b"weights"), (other, b"Weights")):
        path.write_bytes(data)
    config = resolved(f"encoder.beit.weights={here}")
    assert moved(resolved(), config) == ALL
    assert moved(config, resolved(f"encoder.beit.weights={there}")) == set()
    assert moved(config, resolved(f"encoder.beit.weights={other}")) == ALL
    # the weights of an encoder that is not in use are not read
    assert moved(resolved(), resolved(f"encoder.timm_pyramid.weights={here}")) == set()


def test_a_split_list_moves_what_reads_it(tmp_path: Path) -> None:
    def vspw(name: str, train: int, val: int) -> Config:
        root = make_root(tmp_path / name, train, val)
        return resolved("data.name=vspw", f"data.vspw.root={root}", "train.epochs=3")

    base = vspw("base", 6, 3)
    assert moved(base, vspw("moved", 6, 3)) == set()
    assert moved(base, vspw("val", 6, 4)) == EVALUATIONS
    assert moved(base, vspw("train", 7, 3)) == ALL


def test_class_names_move_everything(tmp_path: Path) -> None:
    roots = [make_root(tmp_path / name, 6, 3) for name in ("one", "two")]
    (roots[1] / "label_num_dic_final.json").write_text(json.dumps({"others": 0, "road": 1, "sky": 2}))
    one, two = (resolved("data.name=vspw", f"data.vspw.root={root}") for root in roots)
    assert moved(one, two) == ALL


def test_the_order_of_members_does_not_matter() -> None:
    config = resolved()
    a, b = Train(config, "decoder_a"), Train(config, "decoder_b")
    assert Evaluate((a, b)) == Evaluate((b, a))
    assert Evaluate((a, b)).spec() == Evaluate((b, a)).spec()
    assert len({Evaluate((a, b)), Evaluate((b, a)), Evaluate((a,)), Evaluate((a, a))}) == 3
    assert Evaluate((a, a)).inputs == (a,)


def test_how_an_evaluation_is_made_is_its_own() -> None:
    a = Train(resolved(), "decoder_a")
    plain = Evaluate((a,))
    others = [
        *(Evaluate((a,), flip=True), Evaluate((a,), scales=(1.0, 1.5)), Evaluate((a,), split="test")),
        *(Evaluate((a,), prior=plain), Evaluate((a,), prior=Evaluate((a,), prior=plain))),
    ]
    assert len({plain, *others}) == 6
    assert [job.stage for job in others] == [0, 0, 0, 1, 2]
    assert all(job.inputs == (a,) for job in others)


def test_a_control_or_a_prior_that_is_told_is_an_evaluation_of_its_own() -> None:
    a = Train(resolved(), "decoder_a")
    plain = Evaluate((a,))
    others = [Evaluate((a,), control="permuted_memory"), *(Evaluate((a,), prior=given) for given in GIVEN)]
    assert len({job.fingerprint for job in (plain, *others)}) == len({job.config_hash for job in (plain, *others)}) == 5
    assert len({job.name for job in (plain, *others)}) == 5
    assert all(job.inputs == (a,) and job.frames == plain.frames for job in others)
    assert Evaluate((a,), control=None).identity == plain.identity
    assert "control" not in plain.identity.keys() | to_json(plain.spec()).keys()
    assert others[0].spec().control == "permuted_memory"
    with pytest.raises(UsageError, match="has other control"):
        Evaluate((a,), prior=others[0])


SCALES = (0.75, 1.0, 1.25)


@pytest.mark.parametrize(
    ("overrides", "scales", "enlarged"),
    [
        ((), (1.0,), False),  # as ever: padded
        ((), SCALES, True),
        (("evaluate.small_views=enlarge",), (1.0,), True),
        (("evaluate.small_views=enlarge", "evaluate.short_side=64"), (1.0,), False),  # the window of 64 itself
        (("evaluate.small_views=pad",), SCALES, False),
        (("evaluate.short_side=86",), SCALES, False),  # 64.5 at 0.75
        (("evaluate.short_side=85",), SCALES, True),
        (("evaluate.short_side=86", "evaluate.window=65"), SCALES, True),
    ],
)
def test_views_below_the_window_are_enlarged_and_the_identity_says_so(
    overrides: Sequence[str], scales: tuple[float, ...], enlarged: bool
) -> None:
    evaluation = Evaluate((Train(resolved(*overrides), "upernet"),), scales=scales)
    version = plugins.version_of("harness/engine/sliding_window.py")
    assert evaluation.identity.get("views") == (version if enlarged else None)
    assert "small_views" not in evaluation.identity["evaluate"]
    if enlarged:
        assert evaluation.spec().evaluate.small_views == "enlarge"


def test_padded_views_are_the_evaluation_of_before_there_was_a_choice() -> None:
    config = resolved("evaluate.small_views=pad")
    padded = Evaluate((Train(config, "upernet"),), scales=SCALES, flip=True)
    assert padded.fingerprint == "be5b27df847d5b50"
    assert padded.spec().evaluate.small_views == "pad"


def test_a_config_hash_is_the_job_without_its_data_and_weights(tmp_path: Path) -> None:
    absent = jobs_of(resolved(preset="paper"))
    present = jobs_of(resolved(f"data.vspw.root={make_root(tmp_path / 'vspw')}", preset="paper"))
    for name, job in absent.items():
        assert job.config_hash == present[name].config_hash
        assert job.fingerprint != present[name].fingerprint
    assert len({job.config_hash for job in absent.values()}) == len(absent)


def test_what_a_worker_is_given_is_plain_and_whole() -> None:
    for job in jobs_of(resolved()).values():
        spec = json.loads(json.dumps(to_json(job.spec())))
        assert spec["fingerprint"] == job.fingerprint == digest(spec["identity"])
        assert len(job.fingerprint) == 16
    assert jobs_of(resolved())["upernet"].spec().evaluate.window == compose().train.crop


def test_a_decoder_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'decoder_a'"):
        Train(resolved(), "decoder_aa")


# The sections of an identity, so that a failure says what moved; then the fingerprints. A change here means that
# every user's finished runs of this preset are done again: raise no number lightly.
GOLDEN: dict[str, dict[str, str]] = {
    "demo": {
        "train: seed": "5feceb66ffc86f38",
        "train: precision": "b629972b7ffa59bc",
        "train: data": "ac044858a2c7c6d5",
        "train: encoder": "22ac9b0b86d5cdf0",
        "train: train": "3cec03d6c4bfb928",
        "train: version": "6b86b273ff34fce1",
        "decoder: upernet": "11c03d4f4950a014",
        "decoder: decoder_a": "6906a78f1e903d6c",
        "decoder: decoder_b": "d03d841264e3dbcd",
        "evaluate: precision": "b629972b7ffa59bc",
        "evaluate: data": "ac044858a2c7c6d5",
        "evaluate: split": "3787db394989207e",
        "evaluate: scales": "c2272c0a862f11de",
        "evaluate: flip": "fcbcf165908dd18a",
        "evaluate: evaluate": "44136fa355b3678a",
        "evaluate: version": "6b86b273ff34fce1",
        "train upernet": "faa1b8215cfdd688",
        "train decoder_a": "4abf1f7e12be5ea6",
        "train decoder_b": "308ae11d91feb650",
        "upernet": "c6ed55a3ffdfdf23",
        "decoder_a": "5a0c14f48d61e9e5",
        "decoder_b": "d44e9e44adb51382",
        "decoder_ab": "f0e94660e4e82d55",
    },
    "paper": {
        "train: seed": "5feceb66ffc86f38",
        "train: precision": "18d9537a965d0f70",
        "train: data": "c2e642858e97702f",
        "train: encoder": "d7d73a3c85b23b5b",
        "train: train": "8a2786692e8ff350",
        "train: version": "6b86b273ff34fce1",
        "decoder: upernet": "690b1fb88b5ac19d",
        "decoder: decoder_a": "ced00594cff19f45",
        "decoder: decoder_b": "8e72f1ad9cb7835b",
        "evaluate: precision": "18d9537a965d0f70",
        "evaluate: data": "45c58a4364a25c48",
        "evaluate: split": "3787db394989207e",
        "evaluate: scales": "c2272c0a862f11de",
        "evaluate: flip": "fcbcf165908dd18a",
        "evaluate: evaluate": "1611c3bf65d223ff",
        "evaluate: version": "6b86b273ff34fce1",
        "train upernet": "fb66e62cc06af6c8",
        "train decoder_a": "ba714be770f4ecae",
        "train decoder_b": "cd976376ae24e6b8",
        "upernet": "ee35e33540d0fb04",
        "decoder_a": "70290f2e61f2d7a8",
        "decoder_b": "b0e2b23655d52210",
        "decoder_ab": "123aa1858c00fd12",
    },
}
REDONE = "Users' finished runs of this preset would be redone. If that is meant, write these values into GOLDEN:\n"


def sections(jobs: dict[str, Job]) -> dict[str, str]:
    """What identities are made of, each by its digest."""
    train, evaluate = jobs["train upernet"].identity, jobs["upernet"].identity
    shared = ("seed", "precision", "data", "encoder", "train", "version")
    found = {f"train: {key}": digest(train[key]) for key in shared}
    found |= {f"decoder: {name}": digest(jobs[f"train {name}"].identity["decoder"]) for name in DECODERS}
    own = ("precision", "data", "split", "scales", "flip", "evaluate", "version")
    return found | {f"evaluate: {key}": digest(evaluate[key]) for key in own}


@pytest.mark.parametrize("preset", GOLDEN)
def test_golden_fingerprints(preset: str, tmp_path: Path) -> None:
    overrides: Sequence[str] = ()
    if preset == "paper":
        overrides = [f"data.vspw.root={make_root(tmp_path / 'vspw')}"]
    config = resolved(*overrides, preset=preset)
    assert config.content.missing == ()
    jobs = jobs_of(config)
    found = {**sections(jobs), **{name: job.fingerprint for name, job in jobs.items()}}
    expected = GOLDEN[preset]
    changed = [key for key in {**expected, **found} if expected.get(key) != found.get(key)]
    assert changed == [], f"{preset}: moved: {', '.join(changed)}. {REDONE}{json.dumps(found, indent=4)}"
