import shutil

import pytest

from embedding_api.encoder.kernel import library
from embedding_api.encoder.kernel.library import KernelUnavailable, load_library, usable_instruction_sets

AVX2 = "fpu sse2 avx avx2 fma bmi1 bmi2 movbe f16c abm"
AVX512 = f"{AVX2} avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.parametrize(
    ("machine", "line", "names"),
    [
        ("x86_64", f"flags\t\t: {AVX512} avx512_bf16", ["avx512_bf16", "avx512", "avx2"]),
        ("x86_64", f"flags\t\t: {AVX512}", ["avx512", "avx2"]),
        ("x86_64", f"flags\t\t: {AVX2} avx512f", ["avx2"]),
        ("x86_64", "flags\t\t: fpu sse2 avx", []),
        ("aarch64", "Features\t: fp asimd evtstrm", ["neon"]),
        ("riscv64", "isa\t\t: rv64imafdc", []),
        ("x86_64", "", []),
    ],
)
def test_the_instruction_sets_of_a_cpu_best_first(tmp_path, machine, line, names):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\nbogomips\t: 1\n\nprocessor\t: 1\n{line}\n")
    assert usable_instruction_sets(machine, cpuinfo) == names


def test_the_best_one_is_loaded():
    assert load_library().instruction_set == usable_instruction_sets()[0]


def test_a_cpu_without_any_instruction_set_is_reported(monkeypatch):
    monkeypatch.setattr(library, "usable_instruction_sets", lambda: [])
    with pytest.raises(KernelUnavailable, match="none of AVX2, AVX-512 and NEON"):
        load_library()


@pytest.fixture
def copied(monkeypatch, tmp_path):
    """A copy of the folder of shared objects, from which the library loads."""
    for path in (*library.FOLDER.glob("*.so"), library.FOLDER / "manifest.json"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    return tmp_path


def test_a_shared_object_that_is_cut_off_is_reported(copied):
    """Not loaded: reading it would end the process."""
    path = copied / f"{load_library().instruction_set}.so"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(KernelUnavailable, match=r"cannot be loaded \(it is damaged\): 'make kernel' builds it"):
        load_library()


def test_a_damaged_manifest_is_reported(copied):
    (copied / "manifest.json").write_text("{")
    with pytest.raises(KernelUnavailable, match="cannot be loaded"):
        load_library()


def test_a_shared_object_of_other_sources_is_reported(copied, monkeypatch):
    monkeypatch.setattr(library, "sources", lambda: [copied / "manifest.json"])
    with pytest.raises(KernelUnavailable, match="it was built from other sources than these"):
        load_library()
