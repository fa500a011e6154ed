"""A client in another language, with stubs generated from the .proto files and nothing of Aqueduct's own.

usage: stranger.py HOST:PORT PROTO_FOLDER
"""

import binascii
import importlib.resources
import pathlib
import sys
import tempfile

import google
import grpc
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

address, protos = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()

stubs = tempfile.mkdtemp()
files = [str(path) for folder in ("aqueduct/v1", "google/rpc") for path in sorted((protos / folder).glob("*.proto"))]
well_known = importlib.resources.files("grpc_tools") / "_proto"
flags = [f"-I{protos}", f"-I{well_known}", f"--python_out={stubs}", f"--grpc_python_out={stubs}"]
assert protoc.main(["protoc", *flags, *files]) == 0
sys.path.insert(0, stubs)
# Generated code imports google.rpc, and a package `google` exists already.
google.__path__.append(f"{stubs}/google")
from aqueduct.v1 import log_pb2, log_pb2_grpc, topics_pb2, topics_pb2_grpc, types_pb2  # noqa: E402

channel = grpc.insecure_channel(address)
topics = topics_pb2_grpc.TopicsStub(channel)
log = log_pb2_grpc.LogStub(channel)

topics.Create(topics_pb2.CreateTopicRequest(name="strangers", config=topics_pb2.TopicConfig(partitions=1)))

# Records, which the broker encodes …
records = types_pb2.RecordSet(records=[types_pb2.Record(key=b"\xff\x00", value=b"one"), types_pb2.Record(key=b"k")])
answer = log.Publish(log_pb2.PublishRequest(topic="strangers", records=records))
ack = answer.results[0].ack
assert (ack.base_offset, ack.record_count, ack.durability) == (0, 2, types_pb2.DURABILITY_FSYNC), ack

# … and a batch, which is stored as it is.
encoded = types_pb2.RecordSet(records=[types_pb2.Record(value=b"three")]).SerializeToString()
batch = types_pb2.Batch(record_count=1, records=encoded, crc32=binascii.crc32(encoded))
answer = log.Publish(log_pb2.PublishRequest(topic="strangers", partition=0, batch=batch))
assert answer.results[0].ack.base_offset == 2, answer

# The log's bytes are protobuf that anybody reads.
fetched = log.Fetch(log_pb2.FetchRequest(topic="strangers", partition=0, offset=0))
assert fetched.high_watermark == 3, fetched
seen = []
for stored in fetched.batches:
    assert binascii.crc32(stored.records) == stored.crc32
    seen += types_pb2.RecordSet.FromString(stored.records).records
assert [(r.key, r.HasField("value"), r.value) for r in seen] == [
    (b"\xff\x00", True, b"one"),
    (b"k", False, b""),
    (b"", True, b"three"),
], seen

# A stream, from the start to the end.
wanted = log_pb2.SubscribeRequest(topic="strangers", start=types_pb2.Start(earliest={}), until_end=True)
streamed = [b for r in log.Subscribe(wanted) if r.HasField("batches") for b in r.batches.batches]
assert sum(b.record_count for b in streamed) == 3, streamed

# An error says what is wrong, with a code.
try:
    log.Fetch(log_pb2.FetchRequest(topic="nobody", partition=0))
    raise AssertionError("a topic that does not exist was read")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND, error

# Reflection, as older clients ask for it.
database = ProtoReflectionDescriptorDatabase(channel)
assert {"aqueduct.v1.Log", "aqueduct.v1.Topics", "aqueduct.v1.Groups", "aqueduct.v1.Admin"} <= set(database.get_services())
service = descriptor_pool.DescriptorPool(database).FindServiceByName("aqueduct.v1.Log")
assert "PublishStream" in service.methods_by_name

print("stranger: done")
