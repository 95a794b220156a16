"""The control stream's messages: section 17 of the SPEC, compiled when this module is loaded."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

SPEC = Path(__file__).resolve().parents[2] / "wire-format" / "SPEC.md"


def spec_text() -> str:
    return SPEC.read_text(encoding="utf-8")


def _compiled() -> descriptor_pool.DescriptorPool:
    block = re.search(r"```protobuf\n(.*?)```", spec_text(), re.DOTALL)
    if block is None:
        raise RuntimeError(f"{SPEC} has no protobuf block")
    with tempfile.TemporaryDirectory() as folder:
        source, compiled = Path(folder, "control.proto"), Path(folder, "control.pb")
        source.write_text(block.group(1), encoding="utf-8")
        if protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={compiled}", str(source)]) != 0:
            raise RuntimeError(f"the protobuf block of {SPEC} does not compile")
        files = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


ControlFrame = message_factory.GetMessageClass(_compiled().FindMessageTypeByName("caplane.v1.ControlFrame"))
