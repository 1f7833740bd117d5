package event

import "strings"

// Type is an event's name. Names and codes of device.* are those that users
// of Teleport's audit log know; the others keep its naming.
type Type string

const (
	DeviceCreate       Type = "device.create"
	DeviceDelete       Type = "device.delete"
	DeviceTokenCreate  Type = "device.token.create"
	DeviceTokenSpent   Type = "device.token.spent"
	DeviceEnroll       Type = "device.enroll"
	DeviceAuthenticate Type = "device.authenticate"
	DeviceUpdate       Type = "device.update"
	DeviceFreeze       Type = "device.freeze"
	DeviceAccept       Type = "device.accept"
	DeviceSync         Type = "device.sync"

	UserLogin          Type = "user.login"
	UserLogout         Type = "user.logout"
	UserCreate         Type = "user.create"
	UserUpdate         Type = "user.update"
	UserDelete         Type = "user.delete"
	UserReset          Type = "user.reset"
	UserPasswordChange Type = "user.password_change"
	InviteCreate       Type = "invite.create"

	CertCreate Type = "cert.create"

	RoleCreate       Type = "role.created"
	RoleUpdate       Type = "role.updated"
	RoleDelete       Type = "role.deleted"
	PreferenceUpdate Type = "auth_preference.update"
	LockCreate       Type = "lock.created"
	LockUpdate       Type = "lock.updated"
	LockDelete       Type = "lock.deleted"

	JoinTokenCreate Type = "join_token.create"
	JoinTokenDelete Type = "join_token.delete"
	JoinTokenSpent  Type = "join_token.spent"
	NodeJoin        Type = "instance.join"
	NodeUpdate      Type = "instance.update"
	NodeDelete      Type = "instance.delete"

	SessionStart    Type = "session.start"
	SessionEnd      Type = "session.end"
	SessionRejected Type = "session.rejected"
	Exec            Type = "exec"
	SCP             Type = "scp"
	SFTP            Type = "sftp"
	Port            Type = "port"
	X11             Type = "x11-forward"
	AgentForward    Type = "agent-forward"

	AccessDenied Type = "access.denied"
	ClusterStart Type = "cluster.created"
)

type entry struct {
	ok, failed string // codes
	title      string // as the web shows it
}

// Catalogue: a Type that is not here cannot be recorded.
var catalogue = map[Type]entry{
	DeviceCreate:       {"TV001I", "TV001I", "Device Created"},
	DeviceDelete:       {"TV002I", "TV002I", "Device Deleted"},
	DeviceTokenCreate:  {"TV003I", "TV003I", "Device Enroll Token Created"},
	DeviceTokenSpent:   {"TV004I", "TV004I", "Device Enroll Token Spent"},
	DeviceEnroll:       {"TV005I", "TV005I", "Device Enrolled"},
	DeviceAuthenticate: {"TV006I", "TV006I", "Device Authenticated"},
	DeviceUpdate:       {"TV007I", "TV007I", "Device Updated"},
	DeviceFreeze:       {"DT110W", "DT110W", "Device Frozen"},
	DeviceAccept:       {"DT111I", "DT111E", "Device Accepted"},
	DeviceSync:         {"DT112I", "DT112E", "Device Inventory Synchronized"},

	UserLogin:          {"T1000I", "T1000W", "Local Login"},
	UserLogout:         {"DT100I", "DT100E", "Logged Out"},
	UserCreate:         {"T1002I", "T1002E", "User Created"},
	UserUpdate:         {"T1003I", "T1003E", "User Updated"},
	UserDelete:         {"T1004I", "T1004E", "User Deleted"},
	UserPasswordChange: {"T1005I", "T1005E", "User Password Updated"},
	UserReset:          {"DT101I", "DT101E", "User Reset"},
	InviteCreate:       {"DT102I", "DT102E", "Invite Created"},

	CertCreate: {"TC000I", "TC000E", "Certificate Issued"},

	RoleCreate:       {"T9000I", "T9000E", "User Role Created"},
	RoleDelete:       {"T9001I", "T9001E", "User Role Deleted"},
	RoleUpdate:       {"T9002I", "T9002E", "User Role Updated"},
	PreferenceUpdate: {"TCAUTH001I", "TCAUTH001E", "Cluster Authentication Preferences Updated"},
	LockCreate:       {"TLK00I", "TLK00E", "Lock Created"},
	LockDelete:       {"TLK01I", "TLK01E", "Lock Deleted"},
	LockUpdate:       {"DT103I", "DT103E", "Lock Updated"},

	JoinTokenCreate: {"TJT00I", "TJT00E", "Join Token Created"},
	JoinTokenDelete: {"DT104I", "DT104E", "Join Token Deleted"},
	JoinTokenSpent:  {"DT108I", "DT108E", "Join Token Spent"},
	NodeJoin:        {"TJ002I", "TJ002E", "Instance Joined"},
	NodeUpdate:      {"DT109I", "DT109E", "Instance Updated"},
	NodeDelete:      {"DT105I", "DT105E", "Instance Removed"},

	SessionStart:    {"T2000I", "T2000E", "Session Started"},
	SessionEnd:      {"T2004I", "T2004E", "Session Ended"},
	SessionRejected: {"T1006W", "T1006W", "Session Rejected"},
	Exec:            {"T3002I", "T3002E", "Command Execution"},
	SCP:             {"T3005I", "T3005E", "SCP Transfer"},
	SFTP:            {"TS001I", "TS001E", "SFTP Operation"},
	Port:            {"T3003I", "T3003E", "Port Forwarding"},
	X11:             {"T3008I", "T3008W", "X11 Forwarding"},
	AgentForward:    {"DT113I", "DT113E", "Agent Forwarding"},

	AccessDenied: {"DT106W", "DT106W", "Access Denied"},
	ClusterStart: {"DT107I", "DT107E", "Cluster Created"},
}

// Known tells whether t may be recorded.
func Known(t Type) bool { _, ok := catalogue[t]; return ok }

// FromNode tells whether a node may report t of itself: what happens in
// sessions, never what happens at the CA.
func FromNode(t Type) bool {
	switch t {
	case SessionStart, SessionEnd, SessionRejected, Exec, SCP, SFTP, Port, X11, AgentForward:
		return true
	default:
		return false
	}
}

// CodeOf is the code of t: its failure code where success is false.
// It is empty for an unknown type.
func CodeOf(t Type, success bool) string {
	if success {
		return catalogue[t].ok
	}
	return catalogue[t].failed
}

// Title is the heading that people see in the web: "Device Enroll Token Created".
func Title(t Type) string { return catalogue[t].title }

// Named is the type that a person means by text: its name, or its title.
func Named(text string) Type {
	for t, e := range catalogue {
		if strings.EqualFold(e.title, text) {
			return t
		}
	}
	return Type(text)
}
