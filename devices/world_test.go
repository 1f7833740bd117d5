package devices

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/audit"
	"devicetrust/audit/event"
	"devicetrust/devices/tpm"
	"devicetrust/devices/tpm/tpmtest"
	"devicetrust/identity"
	"devicetrust/resource"
	"devicetrust/store"
)

const (
	testCluster = "example"
	testTag     = "PF2ABCDE"
	admin       = "admin"
	alice       = "alice"
	bob         = "bob"
	testAddr    = "192.0.2.7:1234"
)

// world is a cluster's inventory and a clock.
type world struct {
	*Inventory
	mu    sync.Mutex
	clock time.Time // guarded by mu
}

func newWorld(t testing.TB, db *store.DB) *world {
	t.Helper()
	w := &world{clock: time.Now().Truncate(time.Microsecond).UTC()}
	now := func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.clock
	}
	w.Inventory = New(db, audit.Open(db, testCluster, [32]byte{1}, now), testCluster, now)
	return w
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

// machine is a computer with a TPM and what it remembers.
type machine struct {
	chip  *tpmtest.TPM
	state string
	data  *dtv1.DeviceData
}

func newMachine(t testing.TB, certificates ...tpmtest.Certificate) *machine {
	t.Helper()
	return &machine{
		chip:  tpmtest.Start(t, certificates...),
		state: filepath.Join(t.TempDir(), "device", "state.json"),
		data:  &dtv1.DeviceData{OsType: "linux", AssetTag: testTag, Hostname: "laptop"},
	}
}

func (m *machine) open(t testing.TB) *tpm.TPM {
	t.Helper()
	chip, err := tpm.Open(t.Context(), m.chip.Address)
	if err != nil {
		t.Fatal(err)
	}
	return chip
}

// all are the devices of an inventory that fits into a page.
func (w *world) all(t testing.TB) []resource.Device {
	t.Helper()
	all, next, err := w.ListPage(t.Context(), Filter{}, Page{Size: MaxPage})
	if err != nil || next != "" {
		t.Fatalf("%v; the page after begins at %q", err, next)
	}
	return all
}

// register adds the machine to the inventory and gives a token for it.
func (w *world) register(t testing.TB, m *machine) Token {
	t.Helper()
	_, token, err := w.AddWithToken(t.Context(), admin, NewDevice{OSType: m.data.OsType, AssetTag: m.data.AssetTag}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// enrollment is how a test enrolls; the fields that change messages may be nil.
type enrollment struct {
	user, token string
	trust       Trust
	// onOpen uses the TPM before.
	onOpen func(*tpm.TPM)
	// onInit and onAnswer change what the machine says.
	onInit   func(*dtv1.EnrollInit)
	onAnswer func(*dtv1.TPMEnrollChallengeResponse)
	// onChallenge sees, and may change, what the server says.
	onChallenge func(*dtv1.TPMEnrollChallenge)
}

func (w *world) enrollWith(t testing.TB, m *machine, e enrollment) error {
	t.Helper()
	chip := m.open(t)
	defer chip.Close()
	if e.onOpen != nil {
		e.onOpen(chip)
	}
	if e.user == "" {
		e.user = alice
	}
	_, err := converse(t,
		func(s *serverEnd[dtv1.EnrollDeviceRequest, dtv1.EnrollDeviceResponse]) error {
			return w.Inventory.Enroll(t.Context(), e.user, testAddr, e.trust, s)
		},
		func(s *clientEnd[dtv1.EnrollDeviceRequest, dtv1.EnrollDeviceResponse]) ([]byte, error) {
			s.onSend = func(msg *dtv1.EnrollDeviceRequest) {
				if init := msg.GetInit(); init != nil && e.onInit != nil {
					e.onInit(init)
				}
				if answer := msg.GetTpmChallengeResponse(); answer != nil && e.onAnswer != nil {
					e.onAnswer(answer)
				}
			}
			s.onReceive = func(msg *dtv1.EnrollDeviceResponse) {
				if challenge := msg.GetTpmChallenge(); challenge != nil && e.onChallenge != nil {
					e.onChallenge(challenge)
				}
			}
			return chip.Enroll(t.Context(), tpm.EnrollArgs{
				Token: e.token, Cluster: testCluster, User: e.user, Data: m.data, StatePath: m.state,
			}, s)
		})
	return err
}

// enroll is enrollWith that must succeed.
func (w *world) enroll(t testing.TB, m *machine, user string, trust Trust) {
	t.Helper()
	if err := w.enrollWith(t, m, enrollment{user: user, token: w.register(t, m).Token, trust: trust}); err != nil {
		t.Fatal(err)
	}
}

// login is how a test authenticates a device.
type login struct {
	user     string
	ssh, tls []byte // the keys that the server certifies
	// clientKeys are those that the machine believes in, where they differ.
	clientSSH, clientTLS []byte
	clientUser           string
	demands              Demands
	// newKeys has keys made in the TPM, keys are such from before.
	newKeys bool
	keys    *tpm.LoginKeys

	// onOpen uses the TPM before.
	onOpen      func(*tpm.TPM)
	onInit      func(*dtv1.AuthenticateInit)
	onChallenge func(*dtv1.AuthenticateChallenge)
	onAnswer    func(*dtv1.TPMPlatform)
	onKeys      func(*dtv1.TPMLoginKeys)
	// onProved gets what the machine has in the end.
	onProved func(tpm.Authenticated)
}

func (w *world) loginWith(t testing.TB, m *machine, l login) (Verified, error) {
	t.Helper()
	chip := m.open(t)
	defer chip.Close()
	if l.onOpen != nil {
		l.onOpen(chip)
	}
	if l.user == "" {
		l.user = alice
	}
	if l.ssh == nil {
		l.ssh, l.tls = []byte("ssh key"), []byte("tls key")
	}
	binding := identity.LoginBinding{User: l.user, SSHPublicKey: l.ssh, TLSPublicKey: l.tls}
	believed := identity.LoginBinding{
		Cluster: testCluster, User: first(l.clientUser, l.user),
		SSHPublicKey: first(l.clientSSH, l.ssh), TLSPublicKey: first(l.clientTLS, l.tls),
	}
	var v Verified
	_, err := converse(t,
		func(s *serverEnd[dtv1.AuthenticateDeviceRequest, dtv1.AuthenticateDeviceResponse]) (err error) {
			if v, err = w.Inventory.Authenticate(t.Context(), binding, l.demands, testAddr, s); err != nil {
				return err
			}
			return s.Send(&dtv1.AuthenticateDeviceResponse{Payload: &dtv1.AuthenticateDeviceResponse_Success{
				Success: &dtv1.AuthenticateSuccess{DeviceId: v.Device().ID, AssetTag: v.Device().AssetTag},
			}})
		},
		func(s *clientEnd[dtv1.AuthenticateDeviceRequest, dtv1.AuthenticateDeviceResponse]) ([]byte, error) {
			s.onSend = func(msg *dtv1.AuthenticateDeviceRequest) {
				if init := msg.GetInit(); init != nil && l.onInit != nil {
					l.onInit(init)
				}
				if answer := msg.GetTpmChallengeResponse(); answer != nil && l.onAnswer != nil {
					l.onAnswer(answer.GetPlatform())
				}
				if answer := msg.GetTpmChallengeResponse(); answer.GetKeys() != nil && l.onKeys != nil {
					l.onKeys(answer.GetKeys())
				}
			}
			s.onReceive = func(msg *dtv1.AuthenticateDeviceResponse) {
				if challenge := msg.GetChallenge(); challenge != nil && l.onChallenge != nil {
					l.onChallenge(challenge)
				}
			}
			proved, err := chip.Authenticate(t.Context(), tpm.AuthArgs{
				StatePath: m.state, Data: m.data, Binding: believed, NewKeys: l.newKeys, Keys: l.keys,
			}, s)
			if err == nil && l.onProved != nil {
				l.onProved(proved)
			}
			return nil, err
		})
	if err != nil {
		return Verified{}, err
	}
	return v, nil
}

func first[T ~string | ~[]byte](a, b T) T {
	if len(a) > 0 {
		return a
	}
	return b
}

// converse joins the two halves of a ceremony as the wire does: the server's
// error reaches the client, and what each sends is copied.
func converse[Req, Res, Out any](t testing.TB, server func(*serverEnd[Req, Res]) error, client func(*clientEnd[Req, Res]) (Out, error)) (Out, error) {
	t.Helper()
	p := &pipe[Req, Res]{requests: make(chan *Req, 1), responses: make(chan *Res, 1), done: make(chan struct{}), left: make(chan struct{})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		p.err = server(&serverEnd[Req, Res]{p})
		close(p.done)
	}()
	out, err := client(&clientEnd[Req, Res]{pipe: p})
	close(p.left)
	<-served
	if err == nil && p.err != nil {
		t.Errorf("the server failed after it had said yes: %v", p.err)
	}
	return out, err
}

type pipe[Req, Res any] struct {
	requests  chan *Req
	responses chan *Res
	done      chan struct{} // the server has returned err
	err       error
	left      chan struct{} // the client has returned
}

type serverEnd[Req, Res any] struct{ *pipe[Req, Res] }

func (s *serverEnd[Req, Res]) Receive() (*Req, error) {
	select {
	case msg := <-s.requests:
		return msg, nil
	case <-s.left:
		return nil, io.EOF
	}
}

func (s *serverEnd[Req, Res]) Send(msg *Res) error {
	s.responses <- copied(msg)
	return nil
}

type clientEnd[Req, Res any] struct {
	*pipe[Req, Res]
	onSend    func(*Req)
	onReceive func(*Res)
}

func (c *clientEnd[Req, Res]) Send(msg *Req) error {
	msg = copied(msg)
	if c.onSend != nil {
		c.onSend(msg)
	}
	select {
	case <-c.done:
		return io.EOF // as connect says it; Receive has the reason
	case c.requests <- msg:
		return nil
	}
}

func (c *clientEnd[Req, Res]) Receive() (*Res, error) {
	select {
	case msg := <-c.responses:
		if c.onReceive != nil {
			c.onReceive(msg)
		}
		return msg, nil
	case <-c.done:
	}
	select {
	case msg := <-c.responses:
		return msg, nil
	default:
	}
	if c.err == nil {
		return nil, io.EOF
	}
	sent, _ := api.ToWire(c.err)
	received := connect.NewWireError(sent.Code(), errors.New(sent.Message()))
	for _, d := range sent.Details() {
		received.AddDetail(d)
	}
	return nil, received
}

func copied[T any](msg *T) *T {
	return any(proto.Clone(any(msg).(proto.Message))).(*T)
}

// wantRefusal asserts that err is a refusal whose message has text in it.
func wantRefusal(t testing.TB, err error, text string) {
	t.Helper()
	var r *api.Refusal
	if !errors.As(err, &r) {
		t.Errorf("got %v, want a refusal", err)
		return
	}
	if !strings.Contains(r.Message, text) {
		t.Errorf("refused with %q, want %q in it", r.Message, text)
	}
	if strings.Contains(r.Message+r.Hint, "\n") {
		t.Errorf("%q and %q are more than a line each", r.Message, r.Hint)
	}
}

// events gives the records of a type.
func (w *world) events(t testing.TB, typ event.Type) []event.Event {
	t.Helper()
	events, _, err := w.log.List(context.WithoutCancel(t.Context()), audit.Filter{Type: typ, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// lastEvent gives the newest record of a type.
func (w *world) lastEvent(t testing.TB, typ event.Type) event.Event {
	t.Helper()
	events := w.events(t, typ)
	if len(events) == 0 {
		t.Fatalf("there is no record of %s", typ)
	}
	return events[len(events)-1]
}

func (w *world) device(t testing.TB, tag string) resource.Device {
	t.Helper()
	d, err := w.Find(t.Context(), Ref{AssetTag: tag})
	if err != nil {
		t.Fatal(err)
	}
	return d
}
