package clienttest

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/devices/tpm"
	"devicetrust/identity"
)

// Device is what AuthenticateDevice certifies.
var Device = identity.Device{ID: "9cdfc0ad-64b7-4d9c-a000-000000000000", AssetTag: "C00AA0AAAA0A", CredentialID: "ca11ab1e"}

// Evidence is what Device proves of itself.
var Evidence = identity.Evidence{Level: "quote"}

// attestation is what certificates say of keys in a TPM, which nobody proved.
var attestation = strings.Repeat("a7", 32)

// issue certifies keys for user, in a TPM or not.
func (c *Cluster) issue(user string, sshKey, tlsKey []byte, device identity.Device, inTPM bool) (*dtv1.Certificates, error) {
	c.mu.Lock()
	c.serial++
	serial := c.serial
	c.mu.Unlock()
	id := identity.Identity{
		Cluster: Name, User: user, Roles: c.Roles, Logins: c.Logins,
		Traits: map[string][]string{"logins": c.Logins}, Device: device,
		Permit: identity.Permit{PTY: true, PortForwarding: true}, LoginIP: netip.MustParseAddr("127.0.0.1"),
		PrivateKeyPolicy: "none", Serial: serial,
		ValidAfter: time.Now().Add(-time.Minute), ValidBefore: time.Now().Add(c.Life),
	}
	if device.Trusted() {
		id.Evidence = Evidence
	}
	if inTPM && !c.Unattested {
		id.PrivateKeyPolicy, id.KeyAttestation = identity.KeyPolicyHardware, attestation
	}
	pub, err := ssh.ParsePublicKey(sshKey)
	if err != nil {
		return nil, err
	}
	cert, err := id.SSHCertificate(pub)
	if err != nil {
		return nil, err
	}
	if err := cert.SignCert(rand.Reader, c.userCA); err != nil {
		return nil, err
	}
	key, err := identity.ParseTLSKey(tlsKey)
	if err != nil {
		return nil, err
	}
	template, err := identity.UserTemplate(id)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.tls.cert, key, c.tls.key)
	if err != nil {
		return nil, err
	}
	certs := &dtv1.Certificates{
		Ssh: cert.Marshal(), Tls: der, Roles: c.Roles, Logins: c.Logins, ValidUntil: timestamppb.New(id.ValidBefore),
	}
	if c.Certificates != nil {
		c.Certificates(certs)
	}
	return certs, nil
}

// callerKey is the context key of the client's certificate.
type callerKey struct{}

// caller is the user of the certificate that the client showed.
func caller(ctx context.Context) (string, error) {
	cert, ok := ctx.Value(callerKey{}).(*x509.Certificate)
	if !ok {
		return "", wire(api.Refuse(connect.CodeUnauthenticated, "who are you?").WithHint("Log in."))
	}
	id, err := identity.UnverifiedFromX509(cert)
	return id.User, err
}

type loginService struct {
	dtv1connect.UnimplementedLoginServiceHandler
	c *Cluster
}

func (s *loginService) Login(_ context.Context, req *connect.Request[dtv1.LoginRequest]) (*connect.Response[dtv1.LoginResponse], error) {
	if s.c.ErrLogin != nil {
		return nil, wire(s.c.ErrLogin)
	}
	m := req.Msg
	if p, ok := s.c.Passwords[m.GetUser()]; !ok || p != m.GetPassword() {
		return nil, wire(api.Refuse(connect.CodeUnauthenticated, "wrong user name or password"))
	}
	certs, err := s.c.issue(m.GetUser(), m.GetSshPublicKey(), m.GetTlsPublicKey(), identity.Device{}, false)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.LoginResponse{Certificates: certs, Cluster: &dtv1.ClusterInfo{
		Name:            Name,
		TlsAuthorities:  [][]byte{s.c.tls.cert.Raw},
		HostAuthorities: [][]byte{s.c.HostAuthority.PublicKey().Marshal()},
		DeviceTrustMode: s.c.Mode, AutoEnroll: s.c.AutoEnroll,
	}}), nil
}

func wire(err error) error {
	ce, _ := api.ToWire(err)
	return ce
}

func (s *loginService) Logout(ctx context.Context, req *connect.Request[dtv1.LogoutRequest]) (*connect.Response[dtv1.LogoutResponse], error) {
	user, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.ended = append(s.c.ended, user)
	s.c.replaced = append(s.c.replaced, req.Msg.GetReplacedSerials()...)
	return connect.NewResponse(&dtv1.LogoutResponse{}), nil
}

func (s *loginService) ChangePassword(ctx context.Context, req *connect.Request[dtv1.ChangePasswordRequest]) (*connect.Response[dtv1.ChangePasswordResponse], error) {
	user, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if s.c.Passwords[user] != req.Msg.GetOldPassword() {
		return nil, wire(api.Refuse(connect.CodeUnauthenticated, "wrong password"))
	}
	s.c.Passwords[user] = req.Msg.GetNewPassword()
	return connect.NewResponse(&dtv1.ChangePasswordResponse{}), nil
}

// Invite is the invite that AcceptInvite takes, for the user invited.
const Invite = "an-invite"

func (s *loginService) AcceptInvite(_ context.Context, req *connect.Request[dtv1.AcceptInviteRequest]) (*connect.Response[dtv1.AcceptInviteResponse], error) {
	if req.Msg.GetToken() != Invite {
		return nil, wire(api.Refuse(connect.CodeNotFound, "the invite is not known, or spent"))
	}
	s.c.Passwords["invited"] = req.Msg.GetPassword()
	return connect.NewResponse(&dtv1.AcceptInviteResponse{User: "invited"}), nil
}

type adminService struct {
	dtv1connect.UnimplementedAdminServiceHandler
	c *Cluster
}

func (s *adminService) ListNodes(ctx context.Context, _ *connect.Request[dtv1.ListNodesRequest]) (*connect.Response[dtv1.ListNodesResponse], error) {
	if _, err := caller(ctx); err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.ListNodesResponse{Nodes: s.c.Nodes}), nil
}

type deviceService struct {
	dtv1connect.UnimplementedDeviceServiceHandler
	c *Cluster
}

func (s *deviceService) DiagnoseDevice(ctx context.Context, req *connect.Request[dtv1.DiagnoseDeviceRequest]) (*connect.Response[dtv1.DiagnoseDeviceResponse], error) {
	if _, err := caller(ctx); err != nil {
		return nil, err
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.diagnosed = req.Msg
	return connect.NewResponse(&dtv1.DiagnoseDeviceResponse{Findings: s.c.Findings}), nil
}

// AuthenticateDevice believes whatever comes back, for the keys that the device
// claims to have in its TPM, else for those that Prove sends.
func (s *deviceService) AuthenticateDevice(ctx context.Context, stream *connect.BidiStream[dtv1.AuthenticateDeviceRequest, dtv1.AuthenticateDeviceResponse]) error {
	user, err := caller(ctx)
	if err != nil {
		return err
	}
	if _, err := stream.Receive(); err != nil {
		return err
	}
	if s.c.ErrDevice != nil {
		return wire(s.c.ErrDevice)
	}
	err = stream.Send(&dtv1.AuthenticateDeviceResponse{Payload: &dtv1.AuthenticateDeviceResponse_Challenge{
		Challenge: &dtv1.AuthenticateChallenge{Challenge: make([]byte, 32)},
	}})
	if err != nil {
		return err
	}
	answer, err := stream.Receive()
	if err != nil {
		return err
	}
	sshKey, tlsKey, inTPM, err := answeredKeys(answer.GetTpmChallengeResponse())
	if err != nil {
		return wire(api.Refuse(connect.CodeInvalidArgument, "%v", err))
	}
	certs, err := s.c.issue(user, sshKey, tlsKey, Device, inTPM)
	if err != nil {
		return err
	}
	success := &dtv1.AuthenticateSuccess{Certificates: certs, DeviceId: Device.ID, AssetTag: Device.AssetTag}
	if s.c.Renewable > 0 {
		success.RenewableUntil = timestamppb.New(time.Now().Add(s.c.Renewable))
	}
	return stream.Send(&dtv1.AuthenticateDeviceResponse{Payload: &dtv1.AuthenticateDeviceResponse_Success{Success: success}})
}

func loginKey(sent *dtv1.TPMCertifiedKey) (*ecdsa.PublicKey, error) {
	return tpm.LoginKey{Unique: make([]byte, 32), Public: sent.GetPublic()}.PublicKey() // the secret half stays where it is
}

// answeredKeys are those to be certified: SSH wire format and PKIX DER.
func answeredKeys(answer *dtv1.TPMAuthenticateChallengeResponse) (sshKey, tlsKey []byte, inTPM bool, err error) {
	if sent := answer.GetKeys(); sent != nil {
		public, err := loginKey(sent.GetSsh())
		if err != nil {
			return nil, nil, false, err
		}
		wire, err := ssh.NewPublicKey(public)
		if err != nil {
			return nil, nil, false, err
		}
		if public, err = loginKey(sent.GetTls()); err != nil {
			return nil, nil, false, err
		}
		tlsKey, err = x509.MarshalPKIXPublicKey(public)
		return wire.Marshal(), tlsKey, true, err
	}
	// Prove puts the keys there.
	keys := answer.GetPlatform().GetQuotes()
	if len(keys) != 1 {
		return nil, nil, false, errors.New("no quote")
	}
	return keys[0].GetQuote(), keys[0].GetSignature(), false, nil
}

// Prove is a client.Prover without a TPM, which only this cluster believes. The
// keys stay those that the login has.
func Prove(_ context.Context, args tpm.AuthArgs, stream tpm.AuthenticateStream) (tpm.Authenticated, error) {
	success, err := prove(args, stream)
	return tpm.Authenticated{Success: success}, err
}

func prove(args tpm.AuthArgs, stream tpm.AuthenticateStream) (*dtv1.AuthenticateSuccess, error) {
	err := stream.Send(&dtv1.AuthenticateDeviceRequest{Payload: &dtv1.AuthenticateDeviceRequest_Init{Init: &dtv1.AuthenticateInit{Renew: args.Renew}}})
	if err == nil {
		_, err = stream.Receive()
	}
	if err != nil {
		return nil, api.FromWire(err)
	}
	err = stream.Send(&dtv1.AuthenticateDeviceRequest{Payload: &dtv1.AuthenticateDeviceRequest_TpmChallengeResponse{
		TpmChallengeResponse: &dtv1.TPMAuthenticateChallengeResponse{Platform: &dtv1.TPMPlatform{
			Quotes: []*dtv1.TPMQuote{{Quote: args.Binding.SSHPublicKey, Signature: args.Binding.TLSPublicKey}},
		}},
	}})
	if err != nil {
		return nil, err
	}
	answer, err := stream.Receive()
	if err != nil {
		return nil, api.FromWire(err)
	}
	return answer.GetSuccess(), nil
}
