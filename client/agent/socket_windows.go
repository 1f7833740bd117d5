package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strings"

	"connectrpc.com/connect"
	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"

	"devicetrust/api"
)

const pipePrefix = `\\.\pipe\`

// SocketPath is the name of the pipe that the agent of home serves unless told
// otherwise. OpenSSH for Windows takes it as SSH_AUTH_SOCK and IdentityAgent.
func SocketPath(home, _, _ string) string {
	sum := sha256.Sum256([]byte(strings.ToLower(home)))
	return pipePrefix + "dtsh-" + hex.EncodeToString(sum[:8])
}

// Listen serves the named pipe at path to the person who runs the program and to
// nobody else, also not over the network (winio's pipes are local). Where an
// agent serves it, Listen returns ErrRunning: a name has one first instance.
func Listen(path string) (net.Listener, error) {
	if !strings.HasPrefix(path, pipePrefix) {
		return nil, api.Refuse(connect.CodeInvalidArgument, "cannot serve %q: the name of a pipe begins with %s", path, pipePrefix)
	}
	if Running(context.Background(), path) {
		return nil, ErrRunning
	}
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, fmt.Errorf("cannot tell who runs the agent: %w", err)
	}
	l, err := winio.ListenPipe(path, &winio.PipeConfig{
		// Protected from what is inherited; all rights to the person and to the
		// system.
		SecurityDescriptor: "D:P(A;;GA;;;" + user.User.Sid.String() + ")(A;;GA;;;SY)",
	})
	if err != nil {
		return nil, fmt.Errorf("cannot serve the agent's pipe: %w", err)
	}
	return l, nil
}

// Inherited is for systems that have such sockets.
func Inherited(*os.File) (net.Listener, error) {
	return nil, api.Refuse(connect.CodeUnimplemented, "no socket is handed over on this system")
}

// Dial connects to the agent at path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	return winio.DialPipeContext(ctx, path)
}

// ownedByUs tells whether a pipe is our own account's, or the administrators', as
// those of their programs are, or the system's: a pipe's name can be taken by
// anybody who is first.
func ownedByUs(c net.Conn) bool {
	pipe, ok := c.(interface{ Fd() uintptr })
	if !ok {
		return false
	}
	sd, err := windows.GetSecurityInfo(windows.Handle(pipe.Fd()), windows.SE_KERNEL_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return false
	}
	owner, _, err := sd.Owner()
	if err != nil {
		return false
	}
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	return err == nil && owner.Equals(user.User.Sid) ||
		owner.IsWellKnown(windows.WinBuiltinAdministratorsSid) || owner.IsWellKnown(windows.WinLocalSystemSid)
}

// CheckPlace has nothing to look at: pipes have no folders.
func CheckPlace(string) error { return nil }
