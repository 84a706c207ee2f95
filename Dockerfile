# The same pins as everywhere else; the pages of a run come out in the mounted folder:
#   docker build -t covid3d . && docker run --rm -v "$PWD/runs:/covid3d/runs" covid3d make smoke
FROM python:3.11-slim-bookworm
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends make git bash chromium dicom3tools \
    && rm -rf /var/lib/apt/lists/*
ENV VENV=/opt/venv
WORKDIR /covid3d
COPY pyproject.toml constraints.txt README.md LICENSE Makefile ./
COPY covid3d covid3d
RUN make setup
COPY . .
CMD ["make", "help"]
