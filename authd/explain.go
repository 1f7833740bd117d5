package authd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/ca"
	"devicetrust/devices"
	"devicetrust/feed"
	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
)

// Explain asks the same Decide that the node asks, with the same facts, and of
// a certificate first whether it is one, as the node does.
func (h adminService) Explain(ctx context.Context, req *connect.Request[dtv1.ExplainRequest]) (*connect.Response[dtv1.ExplainResponse], error) {
	s := h.s
	var out *dtv1.ExplainResponse
	err := s.db.Read(ctx, func(tx *store.Tx) (err error) {
		out, err = s.explain(tx, req.Msg)
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(out), nil
}

func (s *Server) explain(tx *store.Tx, m *dtv1.ExplainRequest) (*dtv1.ExplainResponse, error) {
	state, err := s.policyState(tx)
	if err != nil {
		return nil, err
	}
	node, err := s.nodes.lookup(tx, m.GetNode())
	if err != nil {
		return nil, err
	}
	sequence, err := tx.Sequence()
	if err != nil {
		return nil, err
	}
	about, err := s.explained(tx, state, m)
	if err != nil {
		return nil, err
	}
	now := s.now()
	asked := policy.Request{
		Action: policy.OpenSession, Subject: about.subject, Login: m.GetLogin(), Node: policyNode(node),
		Now: now, StateAge: stateAge(node.Spec.State, now),
	}
	if f := m.GetForward(); f != nil {
		if asked.Target, err = explainedTarget(f); err != nil {
			return nil, err
		}
		asked.Action = policy.Forward
	}
	out := &dtv1.ExplainResponse{State: stateReport(node, sequence), Rules: about.notes}
	d := policy.Explain(state, asked)
	answer(out, d, about)
	if out.Allowed && m.GetDevice() != "" && d.Limits.AttestedKey {
		out.Rules = append(out.Rules, note(policy.RuleSkip, "key of the login",
			"it is taken to be in the device's TPM, where it is not with --key=software"))
	}
	if out.Allowed && node.Spec.Enforcer == resource.EnforcerSSHD {
		out.Rules = append(out.Rules, unheld(d.Limits)...)
	}
	return out, nil
}

// answer puts what policy and, before it, the node say into out.
func answer(out *dtv1.ExplainResponse, d policy.Decision, about explained) {
	out.Allowed, out.Reason, out.Changes = d.Allowed(), d.Reason, d.Changes
	for _, r := range d.Rules {
		out.Rules = append(out.Rules, &dtv1.ExplainRule{Effect: string(r.Effect), Source: r.Source, Detail: r.Detail})
	}
	if about.refused != "" {
		out.Allowed, out.Reason = false, about.refused
		if d.Allowed() {
			out.Changes = []string{"log in again"}
		}
	}
	if about.final {
		out.Changes = nil
	}
}

// explained is the subject in question, and what is known of it beside policy.
type explained struct {
	subject policy.Subject
	notes   []*dtv1.ExplainRule
	// refused is why a node refuses the certificate before it asks policy;
	// stranger: and nothing in it is believed, so that policy denies too.
	refused  string
	stranger bool
	// final: nothing would change it that policy knows of.
	final bool
}

func note(effect policy.RuleEffect, source, format string, args ...any) *dtv1.ExplainRule {
	return &dtv1.ExplainRule{Effect: string(effect), Source: source, Detail: fmt.Sprintf(format, args...)}
}

// explained is the subject that m asks about: what a certificate says, or what
// the user's next login would give, with the device where one is named.
func (s *Server) explained(tx *store.Tx, state *policy.State, m *dtv1.ExplainRequest) (explained, error) {
	if len(m.GetCertificate()) > 0 {
		return s.explainedCertificate(tx, state, m)
	}
	user, err := s.login.GetUser(tx, m.GetUser())
	if err != nil {
		return explained{}, err
	}
	about := explained{subject: policy.Subject{User: m.GetUser(), Roles: user.Spec.Roles, Traits: user.Spec.Traits}}
	if m.GetDevice() == "" {
		return about, nil
	}
	ref, err := s.devices.Resolve(tx, m.GetDevice())
	if err != nil {
		return explained{}, err
	}
	d, err := s.devices.Get(tx, ref)
	if err != nil {
		return explained{}, err
	}
	device, evidence, err := devices.Counts(d, m.GetUser())
	with := withDevice(about.subject, device, evidence)
	// Logins have their key there unless somebody wants it otherwise.
	with.KeyAttested = devices.HasTPM(d)
	if err == nil && !with.KeyAttested && demandsAttestedKey(state, with) {
		err = needsAttestedKey(state, with, d.Spec.OSType)
	}
	if err != nil { // why it does not count is the answer
		about.notes = append(about.notes, note(policy.RuleSkip, fmt.Sprintf("device %q", d.Spec.AssetTag), "it does not count: %v", err))
		return about, nil
	}
	about.subject = with
	return about, nil
}

// explainedCertificate is what a node makes of a certificate, with what the
// cluster knows of it beside. A revocation is put into state.
func (s *Server) explainedCertificate(tx *store.Tx, state *policy.State, m *dtv1.ExplainRequest) (explained, error) {
	key, err := ssh.ParsePublicKey(m.GetCertificate())
	if err != nil {
		return explained{}, api.Refuse(connect.CodeInvalidArgument, "the certificate cannot be read")
	}
	check := identity.SSHCheck{Authorities: s.ca.UserAuthorities(), Login: m.GetLogin(), Now: s.now()}
	if from := m.GetSourceAddress(); from != "" {
		if check.Addr, err = netip.ParseAddr(from); err != nil {
			return explained{}, api.Refuse(connect.CodeInvalidArgument, "%.64q is not an IP address", from)
		}
	}
	about, id := shown(check, key)
	if about.stranger {
		return about, nil
	}
	about.final = identity.CheckLogin(m.GetLogin()) != nil
	if id.PinSourceIP {
		about.notes = append(about.notes, note(policy.RuleRequire, "certificate source-address", "connections from %s", id.LoginIP))
	}
	if id.KeyAttested() {
		about.notes = append(about.notes, note(policy.RuleAllow, "certificate private-key-policy",
			"its key is proved to be in the TPM of device %s, by proof %.16s…", id.Device.AssetTag, id.KeyAttestation))
	}
	if m.GetForward() != nil && !id.Permit.PortForwarding && about.refused == "" {
		about.refuse("it does not permit port forwarding")
	}
	revoked, is, known, err := ca.RevocationOf(tx, id.Serial)
	switch {
	case err != nil:
		return explained{}, err
	case !known:
		about.notes = append(about.notes, note(policy.RuleSkip, "record of certificates",
			"there is none of certificate %d: the API refuses it, and nodes do not know", id.Serial))
	case is:
		state.Revoked = policy.RevokedOnly(id.Serial, revoked.Reason)
	}
	switch _, err := s.login.GetUser(tx, id.User); {
	case isNotFound(err):
		about.final = true
		about.notes = append(about.notes, note(policy.RuleSkip, "user "+strconv.Quote(id.User), "there is no such user any more: nobody logs in again as that"))
	case err != nil:
		return explained{}, err
	}
	return about, nil
}

// shown is what check makes of key. A certificate that is refused only here and
// now, and is one of the cluster's, is still somebody's: policy is asked about
// it as well.
func shown(check identity.SSHCheck, key ssh.PublicKey) (explained, identity.Identity) {
	var about explained
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		about.stranger = true
		about.refuse("it is a key, and not a certificate")
		return about, identity.Identity{}
	}
	said, err := identity.UnverifiedFromSSH(cert)
	if err == nil && !check.Addr.IsValid() {
		check.Addr = said.LoginIP // as from where it may be used
	}
	id, no := check.Check(key)
	if no != nil {
		var refused *identity.Refused
		if !errors.As(no, &refused) {
			refused = &identity.Refused{Detail: no.Error()}
		}
		about.refuse(refused.Detail)
		// The login is what Check looks at last, when all else is verified.
		own := identity.SSHCheck{Authorities: check.Authorities, Login: anyLogin, Addr: said.LoginIP, Now: said.ValidAfter}
		if _, no := own.Check(key); err != nil || no != nil && identity.ReasonOf(no) != identity.ReasonPrincipal {
			about.stranger = true
			return about, identity.Identity{}
		}
		id = said
	}
	about.subject = feed.Subject(id)
	return about, id
}

// anyLogin has the form of a login.
const anyLogin = "root"

func (a *explained) refuse(why string) {
	a.refused = "the node refuses the certificate: " + why
	a.notes = append(a.notes, note(policy.RuleDeny, "certificate", "%s", why))
}

// unheld names the limits that a stock sshd does not hold.
func unheld(l policy.Limits) []*dtv1.ExplainRule {
	const detail = "the node's sshd does not hold to it"
	var notes []*dtv1.ExplainRule
	if l.MaxSessions > 0 {
		notes = append(notes, note(policy.RuleSkip, "options.max_sessions", detail))
	}
	if l.IdleTimeout > 0 {
		notes = append(notes, note(policy.RuleSkip, "options.client_idle_timeout", detail))
	}
	return notes
}

// explainedTarget is what is to be forwarded; policy refuses what is none.
func explainedTarget(f *dtv1.ExplainForward) (policy.Target, error) {
	if f.GetPort() > 65535 {
		return policy.Target{}, api.Refuse(connect.CodeInvalidArgument, "there is no port %d", f.GetPort())
	}
	t := policy.Target{Kind: policy.ToPort, Host: f.GetHost(), Port: uint16(f.GetPort()), Path: f.GetPath()}
	switch {
	case f.GetListen() && f.GetPath() != "":
		t.Kind = policy.FromSocket
	case f.GetListen():
		t.Kind = policy.FromPort
	case f.GetPath() != "":
		t.Kind = policy.ToSocket
	}
	return t, nil
}

// stateReport is what a node decides by, for people.
func stateReport(node *resource.Node, current uint64) *dtv1.NodeStateReport {
	out := &dtv1.NodeStateReport{Enforcer: node.Spec.Enforcer, CurrentSequence: current}
	if st := node.Spec.State; st != nil {
		out.Sequence, out.Confirmed, out.Reported = uint64(st.Sequence), timestamppb.New(st.Confirmed), timestamppb.New(st.Reported)
	}
	return out
}
