"""Distribution of the `deeplab` command. Kept free of build-time imports: Beam builds it again for its workers."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="deeplab-pipelines",
    version="0.1.0",
    description="From raw pictures to a trained DeepLabV3+ to millions of masks, with Apache Beam and Keras.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["pipelines", "pipelines.*", "trainer", "trainer.*"]),
    package_data={"pipelines": ["*.j2"]},
    entry_points={"console_scripts": ["deeplab = pipelines.cli:main"]},
    install_requires=[
        "apache-beam[gcp]>=2.77,<2.80",
        "google-cloud-storage>=2.18,<4",
        "google-crc32c>=1.5,<2",
        "jinja2>=3.1,<4",
        "keras>=3.12,<4",
        "numpy>=2.0,<3",
        "opencv-python-headless>=4.10,<6",
        "pillow>=11,<14",
        "protobuf>=4.25",
        "pydensecrf2>=1.1,<2",
        "tensorboard>=2.19,<3",
        "tensorflow>=2.20,<2.22",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.20,<2.22"],
        "test": [
            "build>=1.2",
            "gcp-storage-emulator>=2024.8",
            "hypothesis>=6.100,<7",
            "jax>=0.6",
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",
            "ruff>=0.9,<1",
            "setuptools>=68",
            "wheel",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
)
