from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ChangeModelRequest(_message.Message):
    __slots__ = ("name", "revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: int
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class ChangeModelReply(_message.Message):
    __slots__ = ("waited_for",)
    WAITED_FOR_FIELD_NUMBER: _ClassVar[int]
    waited_for: int
    def __init__(self, waited_for: _Optional[int] = ...) -> None: ...
