package node

import (
	"errors"
	"fmt"
	"strings"

	glider "github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"devicetrust/identity"
)

// admissionKey is where a ServerConn's Permissions hold the *admission.
type admissionKey struct{}

// admitted gives who was admitted on conn; false where nobody was.
func admitted(conn *gossh.ServerConn) (*admission, bool) {
	if conn == nil || conn.Permissions == nil {
		return nil, false
	}
	a, ok := conn.Permissions.ExtraData[admissionKey{}].(*admission)
	return a, ok && a != nil
}

var errNoNone = errors.New("there is no access without authentication")

// serverConfig is what decides who gets in. gliderlabs adds the host keys and
// the PublicKeyCallback.
func (c *connection) serverConfig(ctx glider.Context) *gossh.ServerConfig {
	c.mu.Lock()
	c.ssh = ctx
	c.mu.Unlock()
	config := c.server.algorithms.config()
	config.MaxAuthTries = c.server.limits.authTries
	// Should NoClientAuth ever be on, this still refuses.
	config.NoClientAuthCallback = func(gossh.ConnMetadata) (*gossh.Permissions, error) { return nil, errNoNone }
	config.PreAuthConnCallback = func(conn gossh.ServerPreAuthConn) {
		var err error
		if c.unread, err = unreadOf(conn); err != nil {
			c.server.log.Error("a connection could leave something behind; it is closed", "error", err)
			c.net.Close()
		}
		c.paced.release()
		// config is as gliderlabs left it.
		if config.NoClientAuth || config.PublicKeyCallback == nil || config.PasswordCallback != nil || config.KeyboardInteractiveCallback != nil {
			c.server.log.Error("the SSH server would let people in without a certificate; the connection is closed")
			c.net.Close()
		}
	}
	// The only place of decision: it sees the user and the key of the request
	// whose signature was verified. Earlier callbacks see what is merely
	// offered, and gliderlabs keeps the first of it.
	config.VerifiedPublicKeyCallback = func(conn gossh.ConnMetadata, key gossh.PublicKey, _ *gossh.Permissions, _ string) (*gossh.Permissions, error) {
		return c.authenticate(conn.User(), key)
	}
	return &config
}

// authenticate lets login in, or refuses with a banner that says why. What it
// returns is made here: the Permissions that x/crypto passes on are shared by
// all attempts.
func (c *connection) authenticate(login string, key gossh.PublicKey) (*gossh.Permissions, error) {
	a, no := c.server.admit(login, key, c.remote)
	if no == nil {
		no = c.server.enter(c, a)
	}
	if no != nil {
		c.server.recordRefusal(c, login, no)
		return nil, &gossh.BannerError{Err: errors.New(no.reason), Message: c.server.banner(login, no)}
	}
	return &gossh.Permissions{ExtraData: map[any]any{admissionKey{}: a}}, nil
}

// banner is what a stock ssh shows: one line, and one more where there is
// something to do. It never repeats what a client says: a login is shown only
// where it has a login's form.
func (s *server) banner(login string, no *refusal) string {
	if identity.CheckLogin(login) != nil {
		login = "that login"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "access denied to %s connecting to %s: %s\n", login, s.title(), plain(no.reason))
	if no.hint != "" {
		b.WriteString(plain(no.hint) + "\n")
	}
	return b.String()
}
