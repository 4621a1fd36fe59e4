# clora on a CPU: docker build -t clora . && docker run -v "$PWD:/work" clora eval adapters
FROM python:3.12-slim

# PyTorch without CUDA, which is a tenth of the size.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY clora_cli ./clora_cli
RUN python -m pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -c constraints.txt ".[gguf]" \
    && useradd --create-home clora \
    && rm -rf /src/build

USER clora
WORKDIR /work
ENV HF_HOME=/home/clora/.cache/huggingface
ENTRYPOINT ["clora"]
CMD ["--help"]
