package node

// loginSettings are what an SSHConfig says of logins. The zero value tells
// people nothing.
type loginSettings struct {
	printMOTD, printLastLog bool
}

// login gives the settings, or an *api.Refusal that names the key.
func (c SSHConfig) login() (loginSettings, error) {
	return loginSettings{
		printMOTD:    c.PrintMOTD == nil || *c.PrintMOTD,
		printLastLog: c.PrintLastLog == nil || *c.PrintLastLog,
	}, nil
}
