package authd

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/netip"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/audit"
	"devicetrust/audit/event"
	"devicetrust/ca"
	"devicetrust/devices"
	"devicetrust/identity"
	"devicetrust/login"
	"devicetrust/policy"
	"devicetrust/store"
)

// caller is who calls, as the edge verified it. The zero value is nobody.
type caller struct {
	kind callerKind
	// actor names the caller in the audit record.
	actor string
	addr  netip.Addr

	// Set for callerUser.
	login    login.Login
	identity identity.Identity
	subject  policy.Subject
	// tlsKey is that of the certificate, PKIX DER: one that the login has, or
	// had before a device authentication.
	tlsKey []byte
	// device is the one in the certificate, as records name it; nil is none.
	device *event.Device

	// Set for callerNode.
	nodeID string
	// until is the end of the certificate that it showed.
	until time.Time
}

type callerKind int

const (
	callerNobody callerKind = iota
	callerUser
	callerNode
	callerLocal
)

type callerKey struct{}
type peerKey struct{}

// peer is what the connection tells, before anything is believed.
type peer struct {
	addr netip.Addr
	// osUser is set on the admin socket: whoever may open it administers.
	osUser      string
	certificate *x509.Certificate
}

// remote is the caller's address for records; empty on the admin socket.
func (c caller) remote() string {
	if !c.addr.IsValid() {
		return ""
	}
	return c.addr.String()
}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// withPeer notes on each request where it came from.
func withPeer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := peer{}
		if name, ok := r.Context().Value(osUserKey{}).(string); ok {
			p.osUser = name
		} else {
			if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
				p.addr = ap.Addr().Unmap()
			}
			if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
				p.certificate = r.TLS.PeerCertificates[0]
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, p)))
	})
}

// gate authenticates callers and holds each method to its declaration. What
// it lets through carries the caller in its context.
type gate struct {
	s        *Server
	declared declarations
}

var _ connect.Interceptor = (*gate)(nil)

func (g *gate) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		start, procedure := g.s.now(), req.Spec().Procedure
		ctx, cancel := context.WithTimeout(ctx, unaryLimit(procedure))
		defer cancel()
		kind := ""
		if k, ok := req.Any().(interface{ GetKind() string }); ok {
			kind = k.GetKind()
		}
		var res connect.AnyResponse
		ctx, err := g.admit(ctx, procedure, kind)
		if err == nil {
			if res, err = next(ctx, req); err != nil {
				g.s.recordRefusedAct(ctx, procedure, g.declared[procedure], kind, err)
			}
		}
		err = g.s.toWire(procedure, err)
		g.s.metrics.observe(procedure, err, g.s.now().Sub(start))
		return res, err
	}
}

func (g *gate) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		start, procedure := g.s.now(), conn.Spec().Procedure
		ctx, err := g.admit(ctx, procedure, "")
		if err == nil {
			if err = g.stream(ctx, conn, next); err != nil {
				g.s.recordRefusedAct(ctx, procedure, g.declared[procedure], "", err)
			}
		}
		err = g.s.toWire(procedure, err)
		g.s.metrics.observe(procedure, err, g.s.now().Sub(start))
		return err
	}
}

// stream calls next, provided that the login has not failed too often: each
// ceremony that fails is recorded by the room that it fails in. Who has no
// login begins none.
func (g *gate) stream(ctx context.Context, conn connect.StreamingHandlerConn, next connect.StreamingHandlerFunc) error {
	login := callerOf(ctx).login.ID
	if conn.Spec().StreamType != connect.StreamTypeBidi || login == "" {
		return next(ctx, conn)
	}
	if err := g.s.ceremonies.check(login, g.s.now()); err != nil {
		return err
	}
	err := next(ctx, conn)
	if err != nil {
		g.s.ceremonies.add(login, g.s.now())
	}
	return err
}

func (g *gate) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// admit returns ctx with the caller in it, or says why the caller may not
// call procedure. kind is the request's own, for methods that take any kind.
func (g *gate) admit(ctx context.Context, procedure, kind string) (context.Context, error) {
	access := g.declared[procedure]
	p, _ := ctx.Value(peerKey{}).(peer)
	var c caller
	err := g.s.db.Read(ctx, func(tx *store.Tx) (err error) {
		if c, err = g.s.identify(tx, p, access.GetWho() == dtv1.Access_WHO_ANYONE); err != nil {
			return err
		}
		return g.s.authorize(tx, c, access, kind)
	})
	ctx = audit.WithCaller(ctx, audit.Caller{RemoteAddr: c.remote(), Device: c.device})
	if err != nil {
		g.s.recordRefusal(ctx, c, procedure, err)
		return ctx, err
	}
	return context.WithValue(ctx, callerKey{}, c), nil
}

// identify says who the peer is. A certificate that does not stand is an
// error, unless the method is open to anyone: then it counts as none.
func (s *Server) identify(tx *store.Tx, p peer, anyone bool) (caller, error) {
	c := caller{addr: p.addr}
	switch {
	case p.osUser != "":
		c.kind, c.actor = callerLocal, "os:"+p.osUser
		c.subject = policy.Subject{User: c.actor, LocalAdmin: true}
		return c, nil
	case p.certificate == nil || anyone:
		return c, nil
	}
	v, err := s.ca.VerifyTLSClient(p.certificate)
	if err != nil {
		return c, api.Refuse(connect.CodeUnauthenticated, "the certificate was refused: %v", err).WithHint(hintLogin)
	}
	// From here on a refusal has somebody to name in the audit record.
	c.actor = v.Name()
	if v.Kind() == identity.KindNode {
		c.actor = "node:" + v.Name()
	}
	if v.Kind() == identity.KindNode {
		return s.identifyNode(tx, c, p, v)
	}
	if err := s.notRevoked(tx, v, hintLogin); err != nil {
		return c, err
	}
	c.tlsKey = p.certificate.RawSubjectPublicKeyInfo
	return s.identifyUser(tx, c, v)
}

func (s *Server) notRevoked(tx *store.Tx, v identity.Caller, hint string) error {
	revoked, err := s.ca.IsRevoked(tx, v.Serial())
	if err != nil || !revoked {
		return err
	}
	why, _, _, err := ca.RevocationOf(tx, v.Serial())
	if err != nil {
		return err
	}
	text := "the certificate has been revoked"
	if why.Reason != "" { // else the cluster knows of no such certificate
		text += ": " + why.Reason
	}
	return api.Refuse(connect.CodeUnauthenticated, "%s", text).WithHint("%s", hint)
}

const hintLogin = "Log in again: dtsh login"

func (s *Server) identifyUser(tx *store.Tx, c caller, v identity.Caller) (caller, error) {
	loginID, err := s.ca.LoginOf(tx, v.Serial())
	if err != nil {
		return c, err
	}
	l, err := s.login.Find(tx, loginID)
	if err != nil {
		return c, err
	}
	user, err := s.login.GetUser(tx, l.User)
	if err != nil {
		return c, err
	}
	c.kind, c.login, c.identity = callerUser, l, v.Identity()
	c.subject = withDevice(policy.Subject{
		User:   l.User,
		Roles:  intersect(c.identity.Roles, user.Spec.Roles),
		Traits: user.Spec.Traits,
		Serial: v.Serial(),
	}, c.identity.Device, c.identity.Evidence)
	if d := c.identity.Device; d.Trusted() {
		c.device = &event.Device{DeviceID: d.ID, AssetTag: d.AssetTag, CredentialID: d.CredentialID}
		if err := s.nameOS(tx, c.device); err != nil {
			return c, err
		}
	}
	return c, nil
}

// withDevice is sub on the device d that proved ev. Whether sub's key is in d's
// TPM is told of SSH certificates alone, and by who knows it: no call of the API
// asks.
func withDevice(sub policy.Subject, d identity.Device, ev identity.Evidence) policy.Subject {
	sub.DeviceID, sub.DeviceAssetTag, sub.DeviceCredentialID = d.ID, d.AssetTag, d.CredentialID
	sub.DeviceEvidence = policy.Evidence{
		Level: policy.EvidenceLevel(ev.Level), TPMManufacturer: ev.TPMManufacturer, TPMFirmware: ev.TPMFirmware,
	}
	return sub
}

// nameOS fills in a device's operating system, which certificates do not say,
// where the inventory has the device.
func (s *Server) nameOS(tx *store.Tx, d *event.Device) error {
	found, err := s.devices.Get(tx, devices.Ref{ID: d.DeviceID})
	if err != nil && !isNotFound(err) {
		return err
	}
	d.OSType = found.Spec.OSType
	return nil
}

func (s *Server) identifyNode(tx *store.Tx, c caller, p peer, v identity.Caller) (caller, error) {
	const hint = "Join it again with a new token: dtctl tokens add --type=node"
	switch _, err := s.nodes.get(tx, v.Name()); {
	case isNotFound(err):
		// The one answer by which a node learns that it has to stop.
		return c, api.Refuse(connect.CodeNotFound, "node %q is not part of this cluster any more", v.Name()).WithHint(hint)
	case err != nil:
		return c, err
	}
	if err := s.notRevoked(tx, v, hint); err != nil {
		return c, err
	}
	c.kind, c.nodeID, c.until = callerNode, v.Name(), p.certificate.NotAfter
	return c, nil
}

// authorize holds c to what the method declares.
func (s *Server) authorize(tx *store.Tx, c caller, access *dtv1.Access, kind string) error {
	switch access.GetWho() {
	case dtv1.Access_WHO_ANYONE:
		return nil
	case dtv1.Access_WHO_NODE:
		if c.kind == callerNode {
			return nil
		}
		return api.Refuse(connect.CodePermissionDenied, "only nodes may call this")
	case dtv1.Access_WHO_USER:
		if c.kind == callerUser || c.kind == callerLocal {
			return s.decideCall(tx, c, "", "")
		}
	case dtv1.Access_WHO_RULE:
		if c.kind != callerUser && c.kind != callerLocal {
			break
		}
		resource := access.GetResource()
		if resource == "" {
			var err error
			if resource, err = knownKind(kind); err != nil {
				return err
			}
		}
		for _, verb := range access.GetVerbs() {
			if err := s.decideCall(tx, c, resource, verb); err != nil {
				return err
			}
		}
		return nil
	case dtv1.Access_WHO_UNSPECIFIED:
		return api.Refuse(connect.CodePermissionDenied, "nobody may call this")
	}
	if c.kind == callerNode {
		return api.Refuse(connect.CodePermissionDenied, "a node may not call this")
	}
	return api.Refuse(connect.CodeUnauthenticated, "not logged in").WithHint("Log in: dtsh login")
}

// mustAlso holds the caller of procedure to a right that not all of its
// requests take; a refusal is recorded, as at the gate.
func (s *Server) mustAlso(ctx context.Context, procedure, kind, verb string) error {
	c := callerOf(ctx)
	err := s.db.Read(ctx, func(tx *store.Tx) error { return s.decideCall(tx, c, kind, verb) })
	if err != nil {
		s.recordRefusal(ctx, c, procedure, err)
	}
	return audit.Recorded(err)
}

// decideCall asks policy whether c may do verb on kind; without a verb,
// whether c may call anything at all.
func (s *Server) decideCall(tx *store.Tx, c caller, kind, verb string) error {
	state, err := s.policyState(tx)
	if err != nil {
		return err
	}
	action := policy.CallAPI
	if verb == "" {
		action = policy.LogIn
	}
	d := policy.Decide(state, policy.Request{
		Action: action, Subject: c.subject, Resource: kind, Verb: verb, Now: s.now(),
	})
	if !d.Allowed() {
		return api.Refuse(connect.CodePermissionDenied, "access denied: %s", d.Reason)
	}
	if here := c.remote(); d.Limits.PinSourceIP && (here == "" || here != c.login.RemoteAddr) {
		return api.Refuse(connect.CodePermissionDenied, "access denied: this login is pinned to the address %q that it was made from, and this is %q", c.login.RemoteAddr, here).
			WithHint("%s", hintLogin)
	}
	return nil
}

// unrecordedNote ends the message of the last refusal that is recorded.
const unrecordedNote = "; others within this minute are refused without a record"

// recordRefusal audits a call that was not let through. Callers without a
// certificate of ours are not recorded: anybody could fill the record.
func (s *Server) recordRefusal(ctx context.Context, c caller, procedure string, cause error) {
	if c.actor != "" {
		s.recordBounded(ctx, procedure, event.Event{Type: event.AccessDenied, User: c.actor, Message: cause.Error(), Name: procedure})
	}
}

// recordBounded records a refusal, as far as its user has not had too many
// within the minute. Nothing happened, so what cannot be recorded is logged.
func (s *Server) recordBounded(ctx context.Context, procedure string, e event.Event) {
	switch n := s.refusals.add(e.User, s.now()); {
	case n > maxFailures:
		return
	case n == maxFailures:
		e.Message += unrecordedNote
	}
	if err := s.audit.RecordAlone(context.WithoutCancel(ctx), e); err != nil {
		s.log.Error("a refusal could not be recorded", "procedure", procedure, "error", err)
	}
}

func intersect(a, b []string) []string {
	have := make(map[string]bool, len(b))
	for _, s := range b {
		have[s] = true
	}
	var out []string
	for _, s := range a {
		if have[s] {
			out = append(out, s)
		}
	}
	return out
}
