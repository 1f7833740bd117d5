package client

import (
	"strings"
	"testing"
	"unicode"
)

func FuzzWhatANodeSaysIsShownWithoutControls(f *testing.F) {
	f.Add("access denied to root connecting to web-1:3022: no\r\nhint\x1b[2J")
	f.Add("\x9b31m\u202e\u2066\xff\xfe\u0085")
	f.Fuzz(func(t *testing.T, message string) {
		var screen strings.Builder
		b := banners{login: "root", show: &screen, left: maxBanner}
		if err := b.take(message); err != nil {
			t.Fatal(err)
		}
		for _, r := range screen.String() + b.denial + b.hint {
			if r != '\n' && r != '\t' && !unicode.IsPrint(r) && !unicode.Is(unicode.Zs, r) && unicode.In(r, unicode.Cc, unicode.Cf) {
				t.Errorf("%q is shown", r)
			}
		}
		if strings.ContainsAny(b.denial+b.hint, "\n") {
			t.Errorf("denial %q, hint %q", b.denial, b.hint)
		}
	})
}

func FuzzAProfileNamesNoOtherFile(f *testing.F) {
	f.Add(`{"version":1,"proxy":"dt.example.com:3080","user":"alice"}`)
	f.Add(`{"version":1,"proxy":"[::1]:3080","user":"../x"}`)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseProfile([]byte(text))
		if err != nil {
			return
		}
		for _, name := range []string{fileName(p.Proxy), p.User} {
			if strings.ContainsAny(name, `/\`) || strings.HasPrefix(name, ".") {
				t.Errorf("%q is the name of a file", name)
			}
		}
	})
}

func FuzzAnAddressReadsAsItIsWritten(f *testing.F) {
	for _, s := range []string{"dt.example.com", "[::1]:3080", "https://a:1/", "::", "a:b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		proxy, err := ParseProxy(s)
		if err != nil {
			return
		}
		if again, err := ParseProxy(proxy); err != nil || again != proxy {
			t.Errorf("%q reads as %q, that as %q, %v", s, proxy, again, err)
		}
	})
}
