"""Distribution of the `deeplab` command. Kept free of build-time imports: Beam builds it again for its workers."""

import platform
from pathlib import Path

from setuptools import Extension, find_packages, setup

# The CRF's engine is built once for any processor and once for each kind that does much better with code of its own;
# which one to use is seen at run time. Without a C++ compiler all but the CRF works, and `--crf` says what is missing.
BUILDS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    BUILDS |= {"avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4"]}
# Contraction would move pixels between simplices; the engine says itself where it wants fused operations. The
# warnings left out are about GCC's own headers, and an ABI that nothing is called through.
COMMON = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-Wno-psabi",
    "-Wno-maybe-uninitialized",
]
ENGINE = "pipelines/crf/engine"
HEADERS = ("arrays", "channels", "crf", "lattice", "meanfield", "table", "vectors")
extensions = [
    Extension(
        f"pipelines.crf.engine.{name}",
        [f"{ENGINE}/module.cpp"],
        depends=[f"{ENGINE}/{header}.h" for header in HEADERS],
        define_macros=[("MODULE", name)],
        extra_compile_args=[*COMMON, *flags],
        language="c++",
        optional=True,
    )
    for name, flags in BUILDS.items()
]

setup(
    name="deeplab-pipelines",
    version="0.38.0",
    description="From raw images to a trained DeepLabV3+ to millions of masks, with Apache Beam and Keras.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["pipelines", "pipelines.*", "trainer", "trainer.*"]),
    package_data={"pipelines.pages": ["*.j2"], "pipelines.plan": ["*.json"]},
    ext_modules=extensions,
    entry_points={"console_scripts": ["deeplab = pipelines.__main__:main"]},
    install_requires=[
        "apache-beam[gcp]>=2.77,<2.80",
        "google-cloud-storage>=3,<4",
        "google-crc32c>=1.5,<2",
        "jinja2>=3.1,<4",
        "keras>=3.12,<4",
        "numpy>=2.0,<3",
        "opencv-python-headless>=4.12,<6",
        "pillow>=11,<14",
        "protobuf>=4.25",
        "pyarrow>=17,<26",
        "simplejpeg>=1.8,<2",
        "tensorboard>=2.19,<3",
        "tensorflow>=2.20,<2.22",
        "tqdm>=4.66,<5",
        "zlib-ng>=1,<2",
    ],
    extras_require={
        "benchmarks": ["keras-hub>=0.21,<1"],
        "export": [
            "ai-edge-litert>=2.1,<3",
            "onnx>=1.19,<2",
            "onnxruntime>=1.23,<2",
            "tf2onnx>=1.17,<2",
        ],
        "onnx": ["onnxruntime>=1.23,<2"],
        "gpu": ["tensorflow[and-cuda]>=2.20,<2.22"],
        "jax": ["jax>=0.6,<1"],
        "jax-gpu": ["jax[cuda12]>=0.6,<1"],
        "kubernetes": ["kubernetes>=37,<38", "pyyaml>=6,<7"],
        "pydensecrf": ["pydensecrf2>=1.1,<2; python_version < '3.13'"],  # where it can be built
        "vertex": ["google-cloud-aiplatform>=1.100,<2"],
        "test": [
            "ai-edge-litert>=2.1,<3",
            "build>=1.2",
            "gcp-storage-emulator>=2024.8",
            "hypothesis>=6.100,<7",
            "jax>=0.6,<1",
            "kubernetes>=37,<38",
            "onnx>=1.19,<2",
            "onnxruntime>=1.23,<2",
            "pycocotools>=2.0.8,<3",  # of a script in docs/sets.md
            "pydensecrf2>=1.1,<2; python_version < '3.13'",
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",
            "ruff>=0.9,<1",
            "setuptools>=68",
            "tf2onnx>=1.17,<2",
            "wheel",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
)
