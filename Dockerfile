# clora on a CPU: docker build -t clora . && docker run -v "$PWD:/work" clora eval adapters
# A server: docker run -v "$PWD:/work" -p 127.0.0.1:8000:8000 clora serve adapters --host 0.0.0.0 --api-key-file keys
FROM python:3.12-slim

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY clora_cli ./clora_cli
# uv knows where PyTorch without CUDA is, which is a tenth of the size.
RUN python -m pip install --no-cache-dir uv \
    && uv pip install --system --no-cache --torch-backend cpu -c constraints.txt ".[gguf,images,serve]" \
    && useradd --create-home clora \
    && rm -rf /src/build

USER clora
WORKDIR /work
ENV HF_HOME=/home/clora/.cache/huggingface
EXPOSE 8000
ENTRYPOINT ["clora"]
CMD ["--help"]
