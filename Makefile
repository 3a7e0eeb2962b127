.PHONY: build test lint format bench pictures docs linkcheck sanitize wheels clean

build:            ## compile the kernels in place
	python setup.py build_ext --inplace

test: build       ## the test suite
	pytest

lint:             ## style and types, as CI checks them
	ruff check .
	ruff format --check .
	mypy
	cython-lint fastconv

format:           ## mend what the tools can mend
	ruff check --fix .
	ruff format .

bench: build      ## time every operation, forward and backward
	pytest bench --benchmark-only

pictures: build   ## the pictures in docs/ again (DATA=folder of MNIST; ARGS="scanning": some of them)
	python tools/pictures.py $(if $(DATA),--data $(DATA)) $(ARGS)

docs:             ## the site, to build/docs/index.html, its code run on the way: pip install ".[docs]" first
	sphinx-build -E -W --keep-going -n -q -j 2 docs/site build/docs
	@echo "build/docs/index.html"

linkcheck:        ## its links to elsewhere, which need the network
	sphinx-build -W --keep-going -n -q -b linkcheck docs/site build/linkcheck

sanitize:         ## the operations' tests on kernels with AddressSanitizer and UBSan (ARGS="-k conv2d": some of them)
	python tools/sanitize.py $(ARGS)

wheels:           ## a wheel for every CPython found here, repaired and tested without a compiler, to dist/
	python tools/wheels.py $(ARGS)

clean:
	rm -rf build dist *.egg-info
	find fastconv/_ext -name '*.so' -delete -o -name '*.c' ! -path '*/team/team.c' -delete
