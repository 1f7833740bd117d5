package node

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/node/nodetest"
)

// FuzzWire: whatever a client sends, in the clear or sealed, before or after
// it is admitted, another person's session still answers, nothing in the node
// fails, and nothing is left when the client has gone.
func FuzzWire(f *testing.F) {
	for _, input := range wireSeeds() {
		f.Add(input)
	}
	w := startWireNode(f)
	f.Fuzz(func(t *testing.T, input []byte) {
		w.play(t, input)
		w.unharmed(t)
	})
}

// Each number that a message can have, with nothing in it, with zeros and with
// lengths beyond its end, at each stage of a connection.
func TestNoMessageHarmsAnybody(t *testing.T) {
	w := startWireNode(t)
	for stage := wireVersion; stage <= wireSession; stage++ {
		for number := range 256 {
			for _, payload := range []string{"", strings.Repeat("\x00", 32), strings.Repeat("\xff", 64), "\x00\x00\x00\x00\xff\xff\xff\xfc"} {
				w.play(t, wireInput(stage, append([]byte{byte(number)}, payload...)))
			}
			if number%32 == 0 {
				w.unharmed(t)
			}
		}
		w.unharmed(t)
	}
}

// The seeds say what they are meant to.
func TestAnInputOfTheWireIsReadAsItWasWritten(t *testing.T) {
	for _, want := range [][]byte{
		wireInput(wireSession, []byte("a"), nil, []byte("bc")), rawWireInput(wireKeys, []byte("abc")), wireInput(wireNothing, []byte("SSH-")),
	} {
		stage, packets := readWireInput(want)
		var got []byte
		switch {
		case len(packets) == 1 && packets[0].raw && stage != wireNothing:
			got = rawWireInput(stage, packets[0].bytes)
		default:
			var payloads [][]byte
			for _, p := range packets {
				payloads = append(payloads, p.bytes)
			}
			got = wireInput(stage, payloads...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%x was read as %x", want, got)
		}
	}
	if _, packets := readWireInput(make([]byte, maxWireInput+1)); packets != nil {
		t.Error("what is too large is played")
	}
}

func wireSeeds() [][]byte {
	return slices.Concat(versionSeeds(), clearSeeds(), authSeeds(), admittedSeeds(), sessionSeeds())
}

// versionSeeds are lines that are no version, or one and then no packets
// (RFC 4253 sections 4.2 and 6).
func versionSeeds() [][]byte {
	var seeds [][]byte
	for _, line := range []string{
		"", "\r\n", "SSH-", "SSH-2.0-\r\n", "SSH-1.99-old\r\n", "SSH-1.5-older\r\n", "SSH-2.0-a\x00b\r\n", "SSH-2.0-\xff\xfe\n",
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nSSH-2.0-x\r\n",
		"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c", strings.Repeat("a line before\r\n", 60) + "SSH-2.0-x\r\n", "SSH-2.0-" + strings.Repeat("x", 300) + "\r\n",
		"SSH-2.0-x\r\n\xff\xff\xff\xff", "SSH-2.0-x\r\n\x00\x00\x00\x00\x00", "SSH-2.0-x\r\n\x00\x00\x00\x0c\xff\x14",
		"SSH-2.0-x\r\n\x00\x04\x00\x00\x04\x14", "SSH-2.0-x\r\n\x00\x00\x00\x01\x00",
	} {
		seeds = append(seeds, wireInput(wireNothing, []byte(line)))
	}
	return seeds
}

// clearSeeds are the exchange of keys (RFC 4253 sections 7 to 10) by those who
// do not want keys.
func clearSeeds() [][]byte {
	names := func(kex, cipher string) []byte {
		c, k := strings.Split(cipher, ","), strings.Split(kex, ",")
		return gossh.Marshal(nodetest.KexInit{
			Kex: k, HostKey: []string{"ssh-ed25519"}, CipherCS: c, CipherSC: c,
			MACCS: []string{"hmac-sha2-256-etm@openssh.com"}, MACSC: []string{"hmac-sha2-256-etm@openssh.com"},
			CompCS: []string{"none"}, CompSC: []string{"none"},
		})
	}
	good := names("curve25519-sha256", "aes128-gcm@openssh.com")
	strict := names("curve25519-sha256,kex-strict-c-v00@openssh.com", "aes128-gcm@openssh.com")
	wrong := names("diffie-hellman-group1-sha1", "3des-cbc")
	hybrid := names("mlkem768x25519-sha256", "chacha20-poly1305@openssh.com")
	guessed := bytes.Clone(good)
	guessed[len(guessed)-5] = 1
	point := func(p []byte) []byte { return append([]byte{30}, gossh.Marshal(struct{ Q []byte }{p})...) }
	ignore, newKeys := append([]byte{2}, "\x00\x00\x00\x01x"...), []byte{21}
	return [][]byte{
		wireInput(wireVersion, good), wireInput(wireVersion, good[:40]), wireInput(wireVersion, wrong),
		wireInput(wireVersion, good, good), wireInput(wireVersion, good, newKeys), wireInput(wireVersion, newKeys),
		wireInput(wireVersion, good, point(nil)), wireInput(wireVersion, good, point(make([]byte, 32))),
		wireInput(wireVersion, good, point(bytes.Repeat([]byte{0xff}, 33))), wireInput(wireVersion, good, point(bytes.Repeat([]byte{9}, 32)), newKeys, newKeys),
		wireInput(wireVersion, hybrid, point(make([]byte, 1184+32))), wireInput(wireVersion, hybrid, point(bytes.Repeat([]byte{0xff}, 1184+32))),
		wireInput(wireVersion, guessed, point(nil), point(bytes.Repeat([]byte{9}, 32))),
		// What may stand between the messages of a strict exchange is nothing.
		wireInput(wireVersion, ignore, strict), wireInput(wireVersion, strict, ignore, point(bytes.Repeat([]byte{9}, 32))),
		wireInput(wireVersion, append([]byte{1}, make([]byte, 12)...)), wireInput(wireVersion, append([]byte{3}, 0, 0, 0, 1)),
		rawWireInput(wireVersion, bytes.Repeat([]byte{0, 0, 0, 12, 4}, 40)),
	}
}

// authSeeds are requests for services and to be let in (RFC 4252).
func authSeeds() [][]byte {
	auth := func(user, service, method string, rest []byte) []byte {
		return gossh.Marshal(userauth{User: user, Service: service, Method: method, Rest: rest})
	}
	key := func(signed bool, algorithm string, blob []byte) []byte {
		return gossh.Marshal(struct {
			Signed bool
			Algo   string
			Key    []byte
		}{signed, algorithm, blob})
	}
	const connection = "ssh-connection"
	const certificate = gossh.CertAlgoED25519v01
	fields := gossh.Marshal(struct{ Type, Nonce, Key string }{certificate, strings.Repeat("n", 32), strings.Repeat("k", 32)})
	seeds := [][]byte{
		auth(tester, connection, "none", nil), auth("", "", "", nil), auth(strings.Repeat("a", 5000), connection, "none", nil),
		auth(tester, "ssh-other", "publickey", nil), auth(tester, connection, "password", []byte("\x00\x00\x00\x00\x01p")),
		auth(tester, connection, "keyboard-interactive", make([]byte, 8)), auth(tester, connection, "gssapi-with-mic", []byte("\xff\xff\xff\xff")),
		auth(tester, connection, "publickey", nil), auth(tester, connection, "publickey", key(false, "ssh-ed25519", nil)),
		auth(tester, connection, "publickey", key(true, certificate, fields)), auth(tester, connection, "publickey", key(false, "ssh-rsa", []byte("\x00\x00\x00\x07ssh-rsa"))),
		auth(tester, connection, "hostbased", []byte("\x00\x00\x00\x01x\x00\x00\x00\x00")),
		gossh.Marshal(struct {
			S string `sshtype:"5"`
		}{connection}),
		{61, 0, 0, 0, 9}, {60}, {52}, channelOpen("session", 0), {98, 0, 0, 0, 0},
	}
	inputs := [][]byte{rawWireInput(wireKeys, bytes.Repeat([]byte{0xff}, 64)), rawWireInput(wireKeys, make([]byte, 64))}
	for _, s := range seeds {
		inputs = append(inputs, wireInput(wireKeys, s))
	}
	return append(inputs, wireInput(wireKeys, seeds...))
}

// admittedSeeds are global requests and openings of channels (RFC 4254
// sections 4, 5 and 7; OpenSSH's PROTOCOL).
func admittedSeeds() [][]byte {
	global := func(kind string, rest []byte) []byte {
		return gossh.Marshal(struct {
			Type  string `sshtype:"80"`
			Reply bool
			Rest  []byte `ssh:"rest"`
		}{kind, true, rest})
	}
	bind := gossh.Marshal(struct {
		Address string
		Port    uint32
	}{"127.0.0.1", 1})
	direct := gossh.Marshal(struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}{"127.0.0.1", 1, "127.0.0.1", 1})
	socket := gossh.Marshal(struct {
		Path, Reserved string
		Zero           uint32
	}{"/nowhere/at/all", "", 0})
	var seeds [][]byte
	for _, kind := range []string{"session", "direct-tcpip", "forwarded-tcpip", "direct-streamlocal@openssh.com", "forwarded-streamlocal@openssh.com", "x11", "auth-agent@openssh.com", "tun@openssh.com", "", "\xff"} {
		for _, rest := range [][]byte{nil, direct, socket, []byte("\xff\xff\xff\xff"), bytes.Repeat([]byte{0xff}, 16)} {
			seeds = append(seeds, wireInput(wireAdmitted, append(channelOpen(kind, 0), rest...)))
		}
	}
	for _, kind := range []string{"tcpip-forward", "cancel-tcpip-forward", "streamlocal-forward@openssh.com", "cancel-streamlocal-forward@openssh.com", "keepalive@openssh.com", "hostkeys-prove-00@openssh.com", "no-more-sessions@openssh.com", ""} {
		for _, rest := range [][]byte{nil, bind, socket, []byte("\xff\xff\xff\xff")} {
			seeds = append(seeds, wireInput(wireAdmitted, global(kind, rest)))
		}
	}
	many := make([][]byte, 0, maxWirePackets)
	for id := range uint32(maxWirePackets) {
		many = append(many, channelOpen("session", id))
	}
	huge := gossh.Marshal(struct {
		Type               string `sshtype:"90"`
		ID, Window, Packet uint32
	}{"session", 0, 1<<32 - 1, 0})
	return append(seeds, wireInput(wireAdmitted, many...), wireInput(wireAdmitted, huge), wireInput(wireAdmitted, []byte{81}, []byte{82}, []byte{91}, []byte{92}))
}

// sessionSeeds are requests, data and ends of a channel (RFC 4254 sections 5
// and 6), those that exist and those that do not.
func sessionSeeds() [][]byte {
	number := func(message byte, numbers ...uint32) []byte {
		b := []byte{message}
		for _, n := range numbers {
			b = binary.BigEndian.AppendUint32(b, n)
		}
		return b
	}
	data := func(channel uint32, n int) []byte { return append(number(94, channel, uint32(n)), make([]byte, n)...) }
	var seeds [][]byte
	for _, kind := range []string{"pty-req", "x11-req", "env", "shell", "exec", "subsystem", "window-change", "xon-xoff", "signal", "break", "auth-agent-req@openssh.com", "eow@openssh.com", "exit-status", "exit-signal", ""} {
		for _, rest := range []string{"", "\xff\xff\xff\xfcxterm", "\x00\x00\x00\x04sftp", "\x00\x00\x00\x01\x00", strings.Repeat("\x00", 21), strings.Repeat("\xff", 40)} {
			seeds = append(seeds, wireInput(wireOneByOne, channelOpen("session", 1), channelRequest(1, kind, []byte(rest)), channelRequest(0, kind, []byte(rest))))
		}
	}
	sftp := channelRequest(1, "subsystem", []byte("\x00\x00\x00\x04sftp"))
	for i, packets := range [][][]byte{
		{data(0, 10), number(96, 0), data(0, 10), number(97, 0), data(0, 10)},
		{number(97, 0), number(97, 0)}, {number(96, 0), number(96, 0)}, {data(7, 1)}, {number(93, 0, 1<<32-1), number(93, 0, 1<<32-1)},
		{number(95, 0, 1, 4, 0)}, {number(95, 0, 2, 1<<32-1)}, {data(0, 30000), data(0, 30000), data(0, 30000)}, {number(94, 0, 1<<31)},
		{number(91, 0, 0, 0, 0)}, {number(92, 0, 1, 0, 0)}, {number(99, 0)}, {number(100, 0)}, {number(93, 1<<32-1, 1)},
		// Keys anew (RFC 4253 section 9) that do not come.
		{{20}, data(0, 1)}, {{21}}, {{30, 0, 0, 0, 0}},
		{channelOpen("session", 1), sftp, append(number(94, 1, 9), "\x00\x00\x00\x05\x01\x00\x00\x00\x03"...), append(number(94, 1, 4), "\xff\xff\xff\xff"...)},
		{channelOpen("session", 1), sftp, append(number(94, 1, 9), "\x00\x00\x00\x05\x01\x00\x00\x00\x03"...), append(number(94, 1, 13), "\x00\x00\x00\x09\x03\x00\x00\x00\x01\xff\xff\xff\xff"...)},
	} {
		seeds = append(seeds, wireInput(wireSession+wireStage(i%2), packets...))
	}
	return seeds
}
