# shellcheck shell=bash
# A run that is small enough to test with: the tiny model and the rows of tests/fixtures. Source this.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# Puts the binaries on PATH, those in MEDLEY_BIN or target/release, built where they are missing; and deploy/launch.
tiny_binaries() {
  if [ -z "${MEDLEY_BIN-}" ]; then
    (cd "$repository" && cargo build --quiet --release --locked --workspace --bins)
    MEDLEY_BIN=${CARGO_TARGET_DIR:-$repository/target}/release
  fi
  PATH=$MEDLEY_BIN:$repository/deploy/launch:$PATH
}

# Fills the folder $1 with model and rows; dropout is on, since there runs would first differ.
tiny_data() {
  local from=$repository/tests/fixtures/tiny-bert
  mkdir -p "$1/model"
  cp "$from"/model/{config.json,model.safetensors,tokenizer.json,tokenizer_config.json,vocab.txt} "$1/model"
  sed -i 's/dropout_prob": 0.0/dropout_prob": 0.1/' "$1/model/config.json"
  head -n 100 "$from/rows.jsonl" >"$1/train.jsonl"
}

# The flags of a run of $1 updates.
# shellcheck disable=SC2034 # read by who sources this
tiny_flags() {
  tiny=(--model_name_or_path model --do_train --train_file train.jsonl --max_seq_length 64
    --per_device_train_batch_size 4 --gradient_accumulation_steps 2 --learning_rate 1e-3 --warmup_ratio 0.1
    --max_steps "$1" --logging_steps 25 --save_steps 500)
}

# The digest of what a run has trained.
tiny_weights() { sha256sum "$1/model.safetensors" | cut -d' ' -f1; }

# Waits up to $1 seconds until a command succeeds.
until_true() {
  local tenths=$(($1 * 5))
  shift
  while ! "$@" >/dev/null 2>&1; do
    [ "$tenths" -gt 0 ] || { echo "never came: $*" >&2; return 1; }
    tenths=$((tenths - 1))
    sleep 0.2
  done
}

# Whether a log shows an update from $2 on: by lines of progress, which come every ten seconds, or of the loss.
reached() {
  local update
  update=$(grep -o '^update [0-9]*[/:]' "$1" | tail -n1 | tr -dc 0-9)
  [ "${update:-0}" -ge "$2" ]
}

# expect WHAT FOUND EXPECTED
expect() {
  if [ "$2" != "$3" ]; then
    echo "WRONG  $1: $2; expected $3" >&2
    exit 1
  fi
  echo "ok     $1: $2"
}
