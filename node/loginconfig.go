package node

import (
	"connectrpc.com/connect"

	"devicetrust/api"
)

// loginSettings are what an SSHConfig says of logins. The zero value tells
// people nothing, and takes nothing from them.
type loginSettings struct {
	printMOTD, printLastLog bool
	acceptEnv               acceptEnv
	pam                     pam
}

// login gives the settings, or an *api.Refusal that names the key.
func (c SSHConfig) login() (loginSettings, error) {
	accept, err := parseAcceptEnv(c.AcceptEnv)
	if err != nil {
		return loginSettings{}, api.Refuse(connect.CodeInvalidArgument, "ssh.accept_env: %v", err)
	}
	modules, err := newPAM(c.PAMService, c.PAMHelper)
	if err != nil {
		return loginSettings{}, api.Refuse(connect.CodeFailedPrecondition, "ssh.pam_service: %v", err)
	}
	return loginSettings{
		printMOTD:    c.PrintMOTD == nil || *c.PrintMOTD,
		printLastLog: c.PrintLastLog == nil || *c.PrintLastLog,
		acceptEnv:    accept,
		pam:          modules,
	}, nil
}
