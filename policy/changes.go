package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// changes are the ways out of denial d, each tried before it is named: with
// one of them alone, r would be allowed. There are at most maxChanges.
func changes(s *State, r Request, d Decision) []string {
	if s == nil || r.Action == SeeNode {
		return nil
	}
	w := ways{state: s, request: r}
	user := strconv.Quote(r.Subject.User)
	switch d.Cause {
	case CauseTrustedDevice, CauseEvidence, CauseAttestedKey:
		w.otherDevice()
	case CauseRevoked, CausePrincipal:
		w.try("log in again", s, renewed(r))
	case CauseLocked:
		w.unlock()
	case CauseUnknownRole:
		w.try("log in again without it", s, without(r, func(name string) bool { return s.Roles[name].role == nil }))
	case CauseDenied:
		w.takeAway(user)
	case CauseNotGranted:
		w.addLogin(user)
		w.addRole(user)
	case CauseForwarding:
		w.addRole(user)
	case CauseUnknownMode:
		repaired := *s
		repaired.Preference.DeviceTrust.Mode = ModeRequired
		w.try("set device_trust.mode in cluster_auth_preference to one that exists", &repaired, r)
		repaired = *s
		repaired.Preference.LockingMode = LockingStrict
		w.try("set locking_mode in cluster_auth_preference to one that exists", &repaired, r)
	case CauseStaleLocks:
		r.StateAge = 0
		w.try("let the node reach the control plane", s, r)
	default: // nothing to be done about the question itself
	}
	return w.found
}

type ways struct {
	state   *State
	request Request
	found   []string
}

// try names the change where s and r, which it leads to, would be allowed, if
// need be from a device that meets what is demanded of it.
func (w *ways) try(change string, s *State, r Request) {
	if len(w.found) == maxChanges {
		return
	}
	e := evaluation{state: s, request: &r, quiet: true}
	if e.decide().Allowed() {
		w.found = append(w.found, change)
		return
	}
	if logins := loginsFrom(s, r); len(logins) > 0 {
		w.found = append(w.found, change+", and "+logins[0])
	}
}

// otherDevice: another device, or what this one proves at another login, would
// do.
func (w *ways) otherDevice() {
	logins := loginsFrom(w.state, w.request)
	w.found = logins[:min(len(logins), maxChanges)]
}

// loginsFrom says from which devices r would be allowed that is not allowed
// from its own; nothing where its device is not what keeps it out.
func loginsFrom(s *State, r Request) []string {
	e := evaluation{state: s, request: &r, quiet: true}
	if c := e.decide().Cause; c != CauseTrustedDevice && c != CauseEvidence && c != CauseAttestedKey {
		return nil
	}
	var logins []string
	for _, d := range demandedDevices(e.here) {
		r := renewed(r)
		r.Subject.DeviceID, r.Subject.DeviceAssetTag, r.Subject.DeviceCredentialID = "another", "another", "another"
		r.Subject.DeviceEvidence, r.Subject.KeyAttested = d.evidence, d.attestsKey
		e := evaluation{state: s, request: &r, quiet: true}
		if e.decide().Allowed() {
			logins = append(logins, d.login+d.title)
		}
	}
	return logins
}

// demandedDevice is one that roles may be content with.
type demandedDevice struct {
	// login ends before the title: "log in from ".
	login, title string
	evidence     Evidence
	attestsKey   bool
}

// demandedDevices are those with the highest level that roles demand, and the
// login's key in their TPM where one demands that, one of each manufacturer
// where a role names some; whether all roles are content
// with it has to be asked.
func demandedDevices(roles []*role) []demandedDevice {
	d := demandedDevice{login: "log in from ", title: "an enrolled device", evidence: Evidence{Level: highestLevel(roles)}}
	join := " with "
	if d.evidence.Level != EvidenceNone {
		d.title += join + "evidence " + d.evidence.Level.title()
		join = " and "
	}
	if slices.ContainsFunc(roles, func(r *role) bool { return r.key != nil }) {
		d.login, d.attestsKey = "log in without --key=software from ", true
	}
	tpms := newestOfEach(roles)
	if len(tpms) == 0 {
		if d.attestsKey {
			d.title += join + "a TPM"
		}
		return []demandedDevice{d}
	}
	var all []demandedDevice
	for _, t := range tpms {
		one := d
		one.title += join + tpmTitles([]tpmDemand{t})
		one.evidence.TPMManufacturer, one.evidence.TPMFirmware = t.manufacturer, t.minFirmware
		all = append(all, one)
	}
	return all
}

// newestOfEach gives the manufacturers that roles name, each with the newest
// firmware that one of them demands.
func newestOfEach(roles []*role) []tpmDemand {
	var all []tpmDemand
	for _, r := range roles {
		if r.evidence == nil {
			continue
		}
		for _, t := range r.evidence.tpms {
			i := slices.IndexFunc(all, func(a tpmDemand) bool { return a.manufacturer == t.manufacturer })
			switch {
			case i < 0:
				all = append(all, t)
			case all[i].minFirmware == "", slices.Compare(t.oldest[:], all[i].oldest[:]) > 0:
				all[i] = t
			}
		}
	}
	return all
}

func (w *ways) unlock() {
	unlocked := *w.state
	unlocked.Locks = nil
	e := evaluation{state: w.state, request: &w.request, quiet: true}
	var names []string
	for _, l := range e.locks() {
		names = append(names, strconv.Quote(l.Name))
	}
	w.try("remove lock "+strings.Join(names, " and "), &unlocked, w.request)
}

// takeAway names the roles that deny.
func (w *ways) takeAway(user string) {
	var names []string
	rest := without(w.request, func(name string) bool {
		r := w.state.Roles[name].role
		if r == nil || !w.denies(r) {
			return false
		}
		names = append(names, strconv.Quote(name))
		return true
	})
	w.try("take role "+strings.Join(names, " and ")+" from user "+user, w.state, rest)
}

func (w *ways) denies(r *role) bool {
	if w.request.Action == CallAPI {
		match, _ := r.deny.rules.match(w.request.Resource, w.request.Verb)
		return match
	}
	node, _ := r.deny.labels.match(w.request.Node.Labels)
	return node || r.deny.logins.contain(w.request.Login, w.request.Subject.Traits)
}

// addLogin: a role may let the user have the login, were it one of theirs.
func (w *ways) addLogin(user string) {
	if w.request.Action == CallAPI {
		return
	}
	r := renewed(w.request)
	own := append(slices.Clone(r.Subject.Traits[loginTrait]), r.Login)
	r.Subject.Traits = map[string][]string{loginTrait: own}
	w.try(fmt.Sprintf("add %.64q to the logins of user %s", r.Login, user), w.state, r)
}

// addRole names roles that grant what is asked for.
func (w *ways) addRole(user string) {
	for _, name := range w.granting() {
		r := renewed(w.request)
		r.Subject.Roles = append(slices.Clone(r.Subject.Roles), name)
		w.try("add role "+strconv.Quote(name)+" to user "+user, w.state, r)
	}
}

// granting gives the roles that allow the request, in order of their names.
func (w *ways) granting() []string {
	var names []string
	for name, r := range w.state.Roles {
		if r.role != nil && (w.grants(r.role) || w.forwards(r.role)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (w *ways) grants(r *role) bool {
	if w.request.Action == CallAPI {
		match, _ := r.allow.rules.match(w.request.Resource, w.request.Verb)
		return match
	}
	node, _ := r.allow.labels.match(w.request.Node.Labels)
	return node && r.allow.logins.contain(w.request.Login, w.request.Subject.Traits)
}

func (w *ways) forwards(r *role) bool {
	return w.request.Action == Forward && r.forwards.permit(&w.request.Target)
}

// renewed is r after another login: with a new certificate, which names
// whatever the roles grant.
func renewed(r Request) Request {
	r.Subject.Serial, r.Subject.Principals = 0, nil
	return r
}

// without is r after a login that lacks the roles that drop picks.
func without(r Request, drop func(name string) bool) Request {
	r = renewed(r)
	r.Subject.Roles = slices.DeleteFunc(slices.Clone(r.Subject.Roles), drop)
	return r
}
