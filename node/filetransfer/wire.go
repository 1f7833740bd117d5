// Package filetransfer serves the SSH file transfer protocol, version 3
// (draft-ietf-secsh-filexfer-02), with the extensions that OpenSSH describes
// in its file PROTOCOL. It runs as the account whose files these are, and
// knows nothing of policy: the node watches what it is asked for.
package filetransfer

import "encoding/binary"

// Kind is a packet's first byte (section 3).
type Kind byte

const (
	Init          Kind = 1
	Version       Kind = 2
	Open          Kind = 3
	Close         Kind = 4
	Read          Kind = 5
	Write         Kind = 6
	Lstat         Kind = 7
	Fstat         Kind = 8
	Setstat       Kind = 9
	Fsetstat      Kind = 10
	Opendir       Kind = 11
	Readdir       Kind = 12
	Remove        Kind = 13
	Mkdir         Kind = 14
	Rmdir         Kind = 15
	Realpath      Kind = 16
	Stat          Kind = 17
	Rename        Kind = 18
	Readlink      Kind = 19
	Symlink       Kind = 20
	status        Kind = 101
	Handle        Kind = 102
	data          Kind = 103
	name          Kind = 104
	attrs         Kind = 105
	Extended      Kind = 200
	extendedReply Kind = 201
)

// MaxPacket is without its length: what OpenSSH's both sides take (sftp.c,
// sftp-server.c, SFTP_MAX_MSG_LENGTH). LengthSize is of the length before it.
const (
	MaxPacket  = 256 << 10
	LengthSize = 4
)

// Flags of an Open (section 6.3).
const (
	OpenRead     = 1
	OpenWrite    = 2
	OpenAppend   = 4
	OpenCreate   = 8
	OpenTruncate = 16
	OpenNew      = 32
)

// Flags of attributes (section 5).
const (
	AttrSize  = 1
	AttrOwner = 2
	AttrMode  = 4
	AttrTimes = 8
	// AttrExtended is followed by what nobody uses.
	AttrExtended = 1 << 31
)

// Refuse is an extended request that the node puts in the place of another
// one, which is not done: a status (uint32) and the reason. It is answered
// with them.
const Refuse = "refuse@devicetrust"

// Statuses of the protocol (section 7), as far as others need them.
const (
	StatusFailure     = 4
	StatusUnsupported = 8
)

// Fields reads a packet's fields one after the other; Short is set where one
// is not there, and stays.
type Fields struct {
	Rest  []byte
	Short bool
}

func (f *Fields) take(n int) []byte {
	if n < 0 || n > len(f.Rest) {
		f.Short, f.Rest = true, nil
		return nil
	}
	b := f.Rest[:n]
	f.Rest = f.Rest[n:]
	return b
}

// Uint32 reads a number.
func (f *Fields) Uint32() uint32 {
	b := f.take(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// Uint64 reads a number.
func (f *Fields) Uint64() uint64 {
	b := f.take(8)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// Bytes reads a text, which is part of the packet and not a copy.
func (f *Fields) Bytes() []byte { return f.take(int(min(f.Uint32(), 1<<31-1))) }

// String reads a text.
func (f *Fields) String() string { return string(f.Bytes()) }

// Attributes of a file, as far as Flags says.
type Attributes struct {
	Flags        uint32
	Size         uint64
	UID, GID     uint32
	Mode         uint32
	Atime, Mtime uint32
}

// Attributes reads them (section 5); what is extended is left in Rest.
func (f *Fields) Attributes() Attributes {
	a := Attributes{Flags: f.Uint32()}
	if a.Flags&AttrSize != 0 {
		a.Size = f.Uint64()
	}
	if a.Flags&AttrOwner != 0 {
		a.UID, a.GID = f.Uint32(), f.Uint32()
	}
	if a.Flags&AttrMode != 0 {
		a.Mode = f.Uint32()
	}
	if a.Flags&AttrTimes != 0 {
		a.Atime, a.Mtime = f.Uint32(), f.Uint32()
	}
	return a
}

func appendText[T string | []byte](b []byte, text T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(text))), text...)
}

// AppendRefusal appends the packet that answers request id with code and
// reason and does nothing.
func AppendRefusal(b []byte, id, code uint32, reason string) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, byte(Extended))
	b = binary.BigEndian.AppendUint32(b, id)
	b = appendText(b, Refuse)
	b = binary.BigEndian.AppendUint32(b, code)
	b = appendText(b, reason)
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-LengthSize))
	return b
}
