#!/usr/bin/env bash
# Fuzzes each target for so many seconds:  fuzz/run.sh [SECONDS] [TARGET...]
#
# libFuzzer with coverage, on any toolchain: the flags below are what cargo-fuzz passes, less the address sanitizer,
# which needs a nightly and finds little in crates that forbid unsafe code. Where libFuzzer cannot be built for want of
# a C++ compiler, the corpus is mutated from a seed instead, without coverage; the script says which.
# FUZZ_ENGINE=mutate or libfuzzer forces one. Finds are kept in fuzz/artifacts/TARGET/, and the script ends with 1.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "usage: fuzz/run.sh [SECONDS] [TARGET...]" >&2; exit 2; }
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for file in fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi
for target in "${targets[@]}"; do
    [ -f "fuzz/fuzz_targets/$target.rs" ] || { echo "fuzz: no target is called $target" >&2; exit 2; }
done

engine=${FUZZ_ENGINE:-any}
host=$(rustc -vV | sed -n 's/^host: //p')
# Apart from the products' target folder, since the flags differ.
build=fuzz/target
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
coverage+=" -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions --cfg fuzzing"

build_libfuzzer() {
    local bins=()
    for target in "${targets[@]}"; do bins+=(--bin "$target"); done
    # --target keeps the flags away from build scripts and macros.
    RUSTFLAGS="$coverage" cargo build --locked --release --target "$host" --target-dir "$build" \
        --package caplane-fuzz --features libfuzzer "${bins[@]}"
}

run_libfuzzer() {
    local failed=0
    for target in "${targets[@]}"; do
        # New inputs of this run go to a folder of their own: the corpus in the tree holds chosen ones only.
        local found=$build/found/$target log=$build/$target.log
        mkdir -p "$found" "fuzz/artifacts/$target"
        if "$build/$host/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=70000 \
            -artifact_prefix="fuzz/artifacts/$target/" -print_final_stats=1 \
            "$found" "fuzz/corpus/$target" >"$log" 2>&1; then
            local runs edges
            runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
            edges=$(grep -o 'cov: [0-9]*' "$log" | tail -1)
            echo "fuzz: $target: $runs inputs in $seconds s, $edges, all well"
        else
            failed=1
            tail -n 40 "$log" >&2
            echo "fuzz: $target failed; the input is in fuzz/artifacts/$target/, the log in $log" >&2
            echo "fuzz: once mended, keep the input as a seed in fuzz/corpus/$target/" >&2
        fi
    done
    return $failed
}

if [ "$engine" = any ]; then
    engine=libfuzzer
    if ! echo '#include <thread>' | "${CXX:-c++}" -x c++ -fsyntax-only - 2>/dev/null; then
        echo "fuzz: no C++ compiler, so no libFuzzer; 'make deps' installs one" >&2
        engine=mutate
    fi
fi

case $engine in
    libfuzzer)
        echo "fuzz: libFuzzer with coverage, $seconds s a target (the first build takes several minutes)"
        build_libfuzzer
        run_libfuzzer ;;
    mutate)
        echo "fuzz: mutating the corpus from a seed, without coverage, $seconds s a target"
        cargo build --locked --release --package caplane-fuzz --example mutate
        folder=$(cargo metadata --format-version 1 --no-deps | grep -o '"target_directory":"[^"]*"' | cut -d'"' -f4)
        # A new seed a day: repeatable, and not the same inputs for ever.
        exec "$folder/release/examples/mutate" "$seconds" "${FUZZ_SEED:-$(date +%Y%m%d)}" "${targets[@]}" ;;
    *)
        echo "fuzz: FUZZ_ENGINE is libfuzzer or mutate, not $engine" >&2
        exit 2 ;;
esac
