// Package agent is an ssh-agent (PROTOCOL.agent of OpenSSH) over the logins of
// one person's machine, and over the keys that ssh-add brings.
//
// A login's key signs nothing but what an SSH client signs: a user's
// authentication in a session, or a signature of ssh-keygen -Y. A connection
// that comes from another machine by agent forwarding may use it only where the
// certificate permits that, only for an authentication in a session that was
// bound to the connection, and only at a host that the login's cluster
// certified. Who the other end is, the package does not ask beyond its user ID:
// every process of the person may use the agent, as any ssh-agent.
//
// The package knows no profiles and no TPMs. Where the keys are is the business
// of the Source that it is given.
package agent
