# One image for processors and CUDA: PyPI's torch brings the CUDA libraries, and works without a GPU.
#   docker build -t archstudy .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -e HOME=/tmp -v "$PWD:/work" archstudy run --data my_images
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 study \
    && mkdir /work \
    && chown study /work

WORKDIR /source
COPY pyproject.toml constraints.txt README.md ./
COPY study study
COPY models models
COPY data data
RUN pip install --no-cache-dir --constraint constraints.txt ".[cluster]"

USER 1000
WORKDIR /work
ENTRYPOINT ["study"]
CMD ["--help"]
