package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/client/clienttest"
)

// listen gives the address of a server that does serve with each connection.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	return l.Addr().String()
}

func TestEachFaultOfTheConnectionIsOneLineWithARemedy(t *testing.T) {
	c := clienttest.Start(t)
	closed := listen(t, func(net.Conn) {})
	deaf := listen(t, func(conn net.Conn) { io.Copy(io.Discard, conn) })
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	for _, tt := range []struct{ name, proxy, want string }{
		{"nobody listens", free.Addr().String(), "connection refused"},
		{"no such host", "no-such-host.invalid:3080", ""},
		{"it hangs up", closed, "it closed the connection"},
		{"it is silent", deaf, "no answer in time"},
		{"it speaks plain HTTP", plain.Listener.Addr().String(), "it does not speak TLS"},
		{"it is another HTTPS server", c.Serve(t, c.Chain(t, clienttest.ServerCert{}), http.NotFoundHandler()), "what answers there is not dtauthd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := DialAnonymous(tt.proxy, Trust{Pins: []Pin{Pin(c.Pin)}}, options())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx := t.Context()
			if tt.proxy == deaf { // the others end by themselves
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
			}
			_, err = conn.Login.Login(ctx, connect.NewRequest(&dtv1.LoginRequest{}))
			r, ok := errors.AsType[*api.Refusal](err)
			if !ok || !strings.HasPrefix(r.Message, "cannot reach "+tt.proxy+": ") || !strings.Contains(r.Message, tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if ok && (r.Hint == "" || strings.Contains(r.Message, "\n")) {
				t.Errorf("message %q, hint %q", r.Message, r.Hint)
			}
		})
	}
}

func TestAClockThatIsFarOffIsNamed(t *testing.T) {
	for _, tt := range []struct {
		off  time.Duration
		want string
	}{
		{0, ""},
		{4 * time.Minute, ""},
		{-4 * time.Minute, ""},
		{6 * time.Minute, "6m0s behind that of"},
		{-6 * time.Minute, "6m0s ahead of that of"},
	} {
		c := clienttest.Start(t)
		now := time.Now().Truncate(time.Second)
		c.Date = func() time.Time { return now.Add(tt.off) }
		conn, err := DialAnonymous(c.Proxy, Trust{Pins: []Pin{Pin(c.Pin)}}, Options{Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.Login.Login(t.Context(), connect.NewRequest(&dtv1.LoginRequest{}))
		conn.Close()
		if tt.want == "" {
			if !answered(err) {
				t.Errorf("%s off: %v", tt.off, err)
			}
			continue
		}
		r, ok := errors.AsType[*api.Refusal](err)
		if !ok || !strings.Contains(r.Message, "this machine's clock is "+tt.want) || !strings.Contains(r.Hint, "clock") {
			t.Errorf("%s off: %v", tt.off, err)
		}
	}
}

func TestWhatTheServerRefusesKeepsItsRemedy(t *testing.T) {
	c := clienttest.Start(t)
	c.ErrLogin = api.Refuse(connect.CodeResourceExhausted, "too many attempts").WithHint("Wait a minute.")
	err := call(t, c.Proxy, Trust{Pins: []Pin{Pin(c.Pin)}})
	r, ok := errors.AsType[*api.Refusal](err)
	if !ok || r.Code != connect.CodeResourceExhausted || r.Message != "too many attempts" || r.Hint != "Wait a minute." {
		t.Errorf("error %#v", err)
	}
}

func TestARedirectionIsNotFollowed(t *testing.T) {
	c := clienttest.Start(t)
	elsewhere := make(chan struct{}, 1)
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere <- struct{}{} }))
	t.Cleanup(target.Close)
	proxy := c.Serve(t, c.Chain(t, clienttest.ServerCert{}), http.RedirectHandler(target.URL, http.StatusTemporaryRedirect))
	if err := call(t, proxy, Trust{Pins: []Pin{Pin(c.Pin)}}); err == nil {
		t.Error("no error")
	}
	select {
	case <-elsewhere:
		t.Error("the request went on to another server")
	default:
	}
}

func TestAnAddressHasOneForm(t *testing.T) {
	for text, want := range map[string]string{
		"dt.example.com": "dt.example.com:3080", "dt.example.com:443": "dt.example.com:443",
		"https://dt.example.com/": "dt.example.com:3080", "127.0.0.1": "127.0.0.1:3080",
		"::1": "[::1]:3080", "[::1]:443": "[::1]:443", "[::1]": "[::1]:3080",
		"": "", ":3080": "", "a b": "", "dt.example.com:": "", "dt.example.com:0": "", "dt.example.com:65536": "",
		"dt.example.com:x": "", "../etc": "", "-x:1": "", "http://a": "", "a/b": "", "fe80::1%eth0": "", "a:1:2": "",
	} {
		got, err := ParseProxy(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
}
