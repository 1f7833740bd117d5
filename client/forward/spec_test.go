package forward

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestForwardsAreWrittenAsForSSH(t *testing.T) {
	port := func(host string, n uint16) Address { return Address{Host: host, Port: n} }
	path := func(p string) Address { return Address{Path: p} }
	for _, tt := range []struct {
		parse func(string) (Spec, error)
		text  string
		want  Spec
	}{
		{ParseLocal, "8080:db:5432", Spec{Listen: port("", 8080), To: port("db", 5432)}},
		{ParseLocal, "127.0.0.1:8080:db:5432", Spec{Listen: port("127.0.0.1", 8080), To: port("db", 5432)}},
		{ParseLocal, ":8080:db:5432", Spec{Listen: port("*", 8080), To: port("db", 5432)}},
		{ParseLocal, "*:8080:db:5432", Spec{Listen: port("*", 8080), To: port("db", 5432)}},
		{ParseLocal, "[::1]:8080:[2001:db8::1]:80", Spec{Listen: port("::1", 8080), To: port("2001:db8::1", 80)}},
		{ParseLocal, "8080:/run/db", Spec{Listen: port("", 8080), To: path("/run/db")}},
		{ParseLocal, "localhost:8080:/run/db", Spec{Listen: port("localhost", 8080), To: path("/run/db")}},
		{ParseLocal, "/tmp/s:db:5432", Spec{Listen: path("/tmp/s"), To: port("db", 5432)}},
		{ParseLocal, "/tmp/s:/run/db", Spec{Listen: path("/tmp/s"), To: path("/run/db")}},
		{ParseLocal, `/tmp/a\:b:/run/db`, Spec{Listen: path("/tmp/a:b"), To: path("/run/db")}},
		{ParseLocal, "[/tmp/a:b]:/run/db", Spec{Listen: path("/tmp/a:b"), To: path("/run/db")}},
		{ParseRemote, "0:db:5432", Spec{Remote: true, Listen: port("", 0), To: port("db", 5432)}},
		{ParseRemote, "0", Spec{Remote: true}},
		{ParseRemote, "*:1080", Spec{Remote: true, Listen: port("*", 1080)}},
		{ParseRemote, "/tmp/s:/run/db", Spec{Remote: true, Listen: path("/tmp/s"), To: path("/run/db")}},
		{ParseDynamic, "1080", Spec{Listen: port("", 1080)}},
		{ParseDynamic, "localhost:1080", Spec{Listen: port("localhost", 1080)}},
		{ParseDynamic, "/tmp/s", Spec{Listen: path("/tmp/s")}},
	} {
		got, err := tt.parse(tt.text)
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%q: %v %s", tt.text, err, diff)
		}
	}
}

func TestWhatIsNoForwardIsRefused(t *testing.T) {
	for _, text := range []string{
		"", ":", "0", "x", "8080", "8080:db", "0:db:80", "8080:db:0", "8080:db:65536", "8080:db:-1", "8080::80", "65536:db:80", "8080:db:80:1:2",
		"a:8080:db:80:90", "/tmp/s", "/tmp/s:db", "/tmp/s:/run/db:80", "8080:/run/db:80", "[::1:8080:db:80", "[::1]x:8080:db:80", "8080:d b:80",
		"8080:d\x00b:80", "8080:" + strings.Repeat("x", 256) + ":80", "8080:/" + strings.Repeat("x", 107), "8080:/a\x00b", "http:db:80", "8080:db\u202e:80",
	} {
		if s, err := ParseLocal(text); err == nil {
			t.Errorf("%q is %+v", text, s)
		}
	}
	for _, text := range []string{"", "0", "x", "8080:db:80", "8080:/run/db", "/a:/b"} {
		if s, err := ParseDynamic(text); err == nil {
			t.Errorf("%q is %+v", text, s)
		}
	}
}

// exchange reads from one and writes to another.
type exchange struct {
	io.Reader
	bytes.Buffer
}

func (e *exchange) Read(b []byte) (int, error) { return e.Reader.Read(b) }

func TestWhatIsNoSOCKSIsRefused(t *testing.T) {
	for text, answer := range map[string]string{
		"":                     "",
		"GET / HTTP/1.0\r\n":   "",
		"\x06\x01\x00":         "",
		"\x05\x00":             "\x05\xff",
		"\x05\x01\x02":         "\x05\xff",
		"\x05\x02\x01\x02":     "\x05\xff",
		"\x05\x01\x00\x04\x01": "\x05\x00",
		"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50":                              "\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00", // BIND
		"\x05\x01\x00\x05\x01\x00\x02\x7f\x00\x00\x01\x00\x50":                              "\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00",
		"\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50":                                          "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00",
		"\x05\x01\x00\x05\x01\x00\x03\x03a b\x00\x50":                                       "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00",
		"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x00":                              "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00",
		"\x04\x02\x00\x50\x7f\x00\x00\x01\x00":                                              "\x00\x5b\x00\x00\x00\x00\x00\x00", // BIND
		"\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00":                                          "\x00\x5b\x00\x00\x00\x00\x00\x00",
		"\x04\x01\x00\x50\x7f\x00\x00\x01" + strings.Repeat("x", 300) + "\x00":              "",
		"\x04\x01\x00\x50\x00\x00\x00\x01\x00" + strings.Repeat("x", 300) + "\x00":          "",
		"\x05\x01\x00\x05\x01\x00\x03\x01/\x00\x50":                                         "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00",
		"\x05\x01\x00\x05\x01\x00\x03\xff" + strings.Repeat("x", 254) + "\x00" + "\x00\x50": "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00",
	} {
		e := &exchange{Reader: strings.NewReader(text)}
		if r, err := readSOCKS(e); err == nil {
			t.Errorf("%.40q: %+v", text, r)
		}
		if diff := cmp.Diff(answer, e.String()); diff != "" {
			t.Errorf("%.40q: %s", text, diff)
		}
	}
}

func FuzzSOCKS(f *testing.F) {
	f.Add([]byte("\x04\x01\x00\x50\x00\x00\x00\x01\x00localhost\x00rest"))
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x09localhost\x00\x50rest"))
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x04aaaabbbbccccdddd\x00\x50"))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.NewReader(data)
		e := &exchange{Reader: in}
		r, err := readSOCKS(e)
		if read := len(data) - in.Len(); read > 600 {
			t.Fatalf("%d bytes were read", read)
		}
		if e.Len() > 32 {
			t.Fatalf("%d bytes were answered", e.Len())
		}
		if err == nil && (!plainHost(r.to.Host) || r.to.Host == "" || r.to.Port == 0 || r.to.Path != "") {
			t.Fatalf("%+v", r)
		}
	})
}

func FuzzSpec(f *testing.F) {
	for _, text := range []string{"8080:db:5432", "[::1]:8080:[2001:db8::1]:80", `/tmp/a\:b:/run/db`, "*:1080", "0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func(string) (Spec, error){ParseLocal, ParseRemote, ParseDynamic} {
			s, err := parse(text)
			if err != nil {
				continue
			}
			for _, a := range []Address{s.Listen, s.To} {
				if len(a.Path) > maxPath || len(a.Host) > maxHost || a.Path != "" && a.Path[0] != '/' || !plainHost(a.Host) {
					t.Fatalf("%q is %+v", text, s)
				}
			}
		}
	})
}
