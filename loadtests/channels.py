"""The one call that load is made of, and options of the channels that it goes over."""

from __future__ import annotations

METHOD = "/inference.GRPCInferenceService/ModelInfer"
ANY_SIZE = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
# A connection of its own for each channel, as separate applications would have.
OF_ITS_OWN = (*ANY_SIZE, ("grpc.use_local_subchannel_pool", 1))
