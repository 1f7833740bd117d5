package policy

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// Expired tells whether l has run out at now. The moment of expiry is out.
func (l *Lock) Expired(now time.Time) bool { return !l.Expires.IsZero() && !now.Before(l.Expires) }

// Empty tells whether t names nothing. Such a lock cannot be made; where one
// is met all the same, what it was meant to keep out is unknown, so it keeps
// everybody out.
func (t LockTarget) Empty() bool { return t == LockTarget{} }

// locks gives those in force against the request, and adds their rules.
func (e *evaluation) locks() []*Lock {
	var inForce []*Lock
	for i := range e.state.Locks {
		l := &e.state.Locks[i]
		if !l.Expired(e.request.Now) && l.Target.matches(e.request) {
			inForce = append(inForce, l)
			e.tookPart(&Rule{RuleDeny, "lock " + strconv.Quote(l.Name), l.reason()})
		}
	}
	return inForce
}

// matches tells whether r is what t keeps out: every field of t that is set
// must match. Logins and nodes are locked for sessions and for what is forwarded
// in them; a locked node is still shown, so that people can learn that it is
// locked.
func (t *LockTarget) matches(r *Request) bool {
	session := r.Action == OpenSession || r.Action == Forward
	return (t.User == "" || t.User == r.Subject.User) &&
		(t.Role == "" || slices.Contains(r.Subject.Roles, t.Role)) &&
		(t.Device == "" || t.Device == r.Subject.DeviceID) &&
		(t.Login == "" || session && t.Login == r.Login) &&
		(t.Node == "" || session && (t.Node == r.Node.ID || t.Node == r.Node.Name))
}

// reason is `lock targeting user "alice" is in force: MESSAGE`.
func (l *Lock) reason() string {
	text := "lock targeting " + l.Target.String() + " is in force"
	if l.Message != "" {
		text += ": " + l.Message
	}
	return text
}

// String is `user "alice", node "web-1"`.
func (t LockTarget) String() string {
	if t.Empty() {
		return "what cannot be read"
	}
	var parts []string
	for _, f := range []struct{ name, value string }{
		{"user", t.User}, {"role", t.Role}, {"login", t.Login}, {"device", t.Device}, {"node", t.Node},
	} {
		if f.value != "" {
			parts = append(parts, f.name+" "+strconv.Quote(f.value))
		}
	}
	return strings.Join(parts, ", ")
}
