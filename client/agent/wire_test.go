package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestMalformedMessagesAreRefusedOrEndTheConnection(t *testing.T) {
	w := newWorld(t, permitAll)
	cert := w.logins[0].Certificate
	sign := appendString(appendString([]byte{msgSign}, cert.Marshal()), sshsigRequest())
	big := []byte{0x7f, 0xff, 0xff, 0xff}
	for name, msg := range map[string][]byte{
		"unknown":               {99},
		"sign nothing":          {msgSign},
		"sign cut":              sign,
		"sign with a tail":      append(bytes.Clone(sign), 0, 0, 0, 0, 0),
		"sign, lengths too big": append([]byte{msgSign}, big...),
		"sign by no key":        append(appendString(appendString([]byte{msgSign}, "x"), "y"), 0, 0, 0, 0),
		"add nothing":           {msgAdd},
		"add no kind":           appendString([]byte{msgAdd}, ""),
		"add a DSA key":         appendString([]byte{msgAdd}, "ssh-dss"),
		"add a hardware key":    appendString([]byte{msgAdd}, "sk-ssh-ed25519@openssh.com"),
		"add a cut key":         append([]byte{msgAdd}, newKeyMessage(t)[:60]...),
		"add another's public":  append([]byte{msgAdd}, bytes.Replace(newKeyMessage(t), []byte("\x00\x00\x00\x20"), []byte("\x00\x00\x00\x21\x00"), 1)...),
		"add another's cert":    append(appendString(appendString([]byte{msgAdd}, cert.Type()), cert.Marshal()), newKeyMessage(t)[4+len(ssh.KeyAlgoED25519):]...),
		"add an RSA of zeros":   append(appendString([]byte{msgAdd}, "ssh-rsa"), make([]byte, 28)...),
		"add a huge RSA":        hugeRSA(),
		"add a long comment":    append([]byte{msgAdd}, longComment(t)...),
		"remove nothing":        {msgRemove},
		"remove unknown":        appendString([]byte{msgRemove}, newSigner(t).PublicKey().Marshal()),
		"lock nothing":          {msgLock},
		"lock with a tail":      append(appendString([]byte{msgLock}, "x"), 0),
		"extension of no name":  {msgExtension},
		"extension unknown":     appendString([]byte{msgExtension}, "x@example.com"),
		"bind nothing":          appendString([]byte{msgExtension}, extSessionBind),
		"bind too big":          append(appendString([]byte{msgExtension}, extSessionBind), big...),
		"mark with no name":     appendString([]byte{msgExtension}, extForwarded),
		"mark with no key":      append(appendString(appendString([]byte{msgExtension}, extForwarded), "hop"), 0, 0, 0, 0),
	} {
		if got := w.talk().ask(msg); len(got) != 1 || got[0] != msgFailure {
			t.Errorf("%s: %v", name, got)
		}
	}
	for name, raw := range map[string][]byte{
		"no message": {0, 0, 0, 0}, "too long": binary.BigEndian.AppendUint32(nil, maxMessage+1), "all ones": {0xff, 0xff, 0xff, 0xff},
	} {
		c := w.dial()
		if _, err := c.Write(append(raw, 11)); err != nil {
			t.Fatal(err)
		}
		before := time.Now()
		if got, err := io.ReadAll(c); len(got) > 0 || time.Since(before) > messageTimeout/2 {
			t.Errorf("%s: answered %v, %v", name, got, err)
		}
	}
	if n := w.agent.Added(); n != 0 {
		t.Errorf("%d keys", n)
	}
	if len(w.talk().keys()) != 2 {
		t.Error("the agent does not answer any more")
	}
}

func hugeRSA() []byte {
	b := appendString([]byte{msgAdd}, "ssh-rsa")
	for range 6 {
		b = appendString(b, bytes.Repeat([]byte{0x7f}, 20<<10))
	}
	return appendString(b, "huge")
}

func longComment(t *testing.T) []byte {
	m := newKeyMessage(t)
	return appendString(m[:len(m)-len("mine")-4], make([]byte, maxComment+1))
}

func TestAMessageThatDoesNotComeEndsTheConnection(t *testing.T) {
	for name, part := range map[string][]byte{"half a length": {0, 0}, "half a message": {0, 0, 0, 9, 11}} {
		synctest.Test(t, func(t *testing.T) {
			a := New(Config{Source: nobody{}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
			here, there := net.Pipe()
			done := make(chan struct{})
			go func() { defer close(done); a.ServeConn(t.Context(), there) }()
			// Idle for a day is no fault.
			time.Sleep(24 * time.Hour)
			if _, err := here.Write(part); err != nil {
				t.Fatal(err)
			}
			before := time.Now()
			<-done
			if d := time.Since(before); d != messageTimeout {
				t.Errorf("%s: ended after %v", name, d)
			}
		})
	}
}

func TestAnAnswerThatIsNotTakenEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Config{Source: nobody{}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		here, there := net.Pipe()
		done := make(chan struct{})
		go func() { defer close(done); a.ServeConn(t.Context(), there) }()
		if err := writeMessage(here, []byte{msgRequestIdentities}); err != nil {
			t.Fatal(err)
		}
		<-done
	})
}

type nobody struct{}

func (nobody) Identities(context.Context) ([]Identity, error) { return nil, nil }

func TestAThousandSignaturesAtOnceAreQueuedAndAnswered(t *testing.T) {
	w := newWorld(t, permitAll)
	cert := w.logins[0].Certificate
	var inner sync.Mutex
	sign, most, now := w.logins[0].Sign, 0, 0
	w.mu.Lock()
	w.logins[0].Sign = func(ctx context.Context, data []byte) (*ssh.Signature, error) {
		inner.Lock()
		now++
		most = max(most, now)
		inner.Unlock()
		defer func() { inner.Lock(); now--; inner.Unlock() }()
		return sign(ctx, data)
	}
	w.mu.Unlock()
	var all sync.WaitGroup
	errs := make(chan error, 1000)
	for i := range 1000 {
		all.Go(func() {
			c, err := Dial(t.Context(), w.socket)
			if err != nil {
				errs <- err
				return
			}
			defer c.Close()
			data := authRequest(session(byte(i)), "root", cert, nil)
			msg := append(appendString(appendString([]byte{msgSign}, cert.Marshal()), data), 0, 0, 0, 0)
			if err := writeMessage(c, msg); err != nil {
				errs <- err
				return
			}
			answer, err := readMessage(c)
			if err != nil || answer[0] != msgSignature {
				errs <- fmt.Errorf("%d: %v, %w", i, answer, err)
			}
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if most > maxConns {
		t.Errorf("%d at once", most)
	}
}

// FuzzAgent sends a connection any bytes: the agent answers or hangs up, and
// holds no more than a message.
func FuzzAgent(f *testing.F) {
	key := newKeyMessage(f)
	host := newSigner(f)
	framed := func(msgs ...[]byte) []byte {
		var all []byte
		for _, m := range msgs {
			all = appendString(all, m)
		}
		return all
	}
	signer := newSigner(f)
	cert := &ssh.Certificate{Key: signer.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"root"}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(zeros{}, newSigner(f)); err != nil {
		f.Fatal(err)
	}
	f.Add(framed([]byte{msgRequestIdentities}))
	f.Add(framed(append([]byte{msgAdd}, key...), []byte{msgRequestIdentities}, []byte{msgRemoveAll}))
	f.Add(framed(append(append([]byte{msgAddConstrained}, key...), 1, 0, 0, 0, 9)))
	f.Add(framed(append(append([]byte{msgAddConstrained}, key...), appendString(appendString([]byte{255}, extRestrictDestination), "\x00\x00\x00\x00")...)))
	f.Add(framed(bindMessage(f, host, session(1), true), bindMessage(f, host, session(2), false),
		append(appendString(appendString([]byte{msgSign}, cert.Marshal()), authRequest(session(2), "root", cert, host.PublicKey())), 0, 0, 0, 0)))
	f.Add(framed(append(appendString(appendString([]byte{msgSign}, cert.Marshal()), sshsigRequest()), 0, 0, 0, 0)))
	f.Add(framed(appendString(appendString([]byte{msgExtension}, extForwarded), "hop"), appendString([]byte{msgRemove}, cert.Marshal())))
	f.Add(framed(appendString([]byte{msgLock}, "x"), appendString([]byte{msgUnlock}, "x")))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 11})
	login := Identity{Certificate: cert, Comment: "root", Sign: func(_ context.Context, data []byte) (*ssh.Signature, error) {
		if !isSSHSIG(data) {
			if _, ok := parseUserAuth(data); !ok {
				f.Errorf("signed %q", data)
			}
		}
		return signer.Sign(zeros{}, data)
	}}
	source := one{login}
	f.Fuzz(func(t *testing.T, sent []byte) {
		a := New(Config{Source: source, Now: func() time.Time { return time.Unix(1.8e9, 0) }, Log: slog.New(panics{})})
		a.lock.wait = func(time.Duration) {}
		c := &script{in: bytes.NewReader(sent)}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		a.ServeConn(context.Background(), c)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20+200*uint64(len(sent)) {
			t.Errorf("%d bytes for %d", n, len(sent))
		}
	})
}

// panics fails where the agent has logged an error: that is of a panic.
type panics struct{ slog.Handler }

func (panics) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (panics) Handle(_ context.Context, r slog.Record) error {
	var v any
	r.Attrs(func(a slog.Attr) bool { v = a.Value; return true })
	panic(v)
}

type one struct{ id Identity }

func (o one) Identities(context.Context) ([]Identity, error) { return []Identity{o.id}, nil }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// script is a connection whose other end has said all it says.
type script struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error) { return s.out.Write(p) }
func (s *script) Close() error                { return nil }

// BenchmarkSignSoftware is one signature by a software key over the socket, each
// on a connection of its own as ssh makes them.
func BenchmarkSignSoftware(b *testing.B) {
	signer := newSigner(b)
	cert := &ssh.Certificate{Key: signer.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"root"}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(zeros{}, newSigner(b)); err != nil {
		b.Fatal(err)
	}
	login := Identity{Certificate: cert, Sign: func(_ context.Context, data []byte) (*ssh.Signature, error) { return signer.Sign(zeros{}, data) }}
	a := New(Config{Source: one{login}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	path := b.TempDir() + "/s"
	l, err := Listen(path)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = a.Serve(ctx, l) }()
	defer func() { cancel(); <-done }()
	data := authRequest(session(1), "root", cert, nil)
	for b.Loop() {
		c, err := Dial(ctx, path)
		if err != nil {
			b.Fatal(err)
		}
		k := talk{b, c}
		if len(k.keys()) != 2 || k.sign(cert, data) == nil {
			b.Fatal("refused")
		}
		_ = c.Close()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
}

func TestListsAreBounded(t *testing.T) {
	w := newWorld(t, permitAll)
	host := newSigner(t).PublicKey().Marshal()
	add := func(destinations, keys int) bool {
		to := appendString(appendString(appendString(nil, ""), "host.example.com"), "")
		for range keys {
			to = append(appendString(to, host), 0)
		}
		one := appendString(appendString(appendString(nil, make([]byte, 12)), to), "")
		var all []byte
		for range destinations {
			all = appendString(all, one)
		}
		msg := append([]byte{msgAddConstrained}, newKeyMessage(t)...)
		return w.talk().succeeds(appendString(appendString(append(msg, constrainExtension), extRestrictDestination), all))
	}
	if !add(maxDestinations, 1) || !add(1, maxHopKeys) {
		t.Error("as many as may be: refused")
	}
	if add(maxDestinations+1, 1) || add(1, maxHopKeys+1) {
		t.Error("one too many: added")
	}
	for size, want := range map[int]bool{maxKeyBlob - 1024: true, maxKeyBlob: false} {
		key := newSigner(t)
		cert := &ssh.Certificate{Key: key.PublicKey(), CertType: ssh.HostCert, ValidPrincipals: []string{string(make([]byte, size))}, ValidBefore: ssh.CertTimeInfinity}
		if err := cert.SignCert(zeros{}, w.hostCA); err != nil {
			t.Fatal(err)
		}
		certified, err := ssh.NewCertSigner(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.talk().bind(certified, session(1), true); got != want {
			t.Errorf("a host certificate of %d bytes: %v", len(cert.Marshal()), got)
		}
	}
}
