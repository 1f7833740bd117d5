package policy

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// LockingMode says what becomes of a session where nobody can tell whether
// there are new locks. An unknown one denies.
type LockingMode string

const (
	LockingUnset LockingMode = ""
	// LockingStrict: what is known may be as old as the staleness limit.
	LockingStrict LockingMode = "strict"
	// LockingBestEffort: what was known last holds.
	LockingBestEffort LockingMode = "best_effort"
)

// NeverHeard is the StateAge of a State of which it is not known how old it is.
const NeverHeard = time.Duration(math.MaxInt64)

// CheckLockingMode refuses a mode that nobody knows; an unset one is fine.
func CheckLockingMode(m LockingMode) error {
	switch m {
	case LockingUnset, LockingStrict, LockingBestEffort:
		return nil
	default:
		return fmt.Errorf("%.64q is neither strict nor best_effort", string(m))
	}
}

// CheckStalenessLimit refuses a limit that locks everybody out in a busy
// minute, and one that is none; an unset one is fine.
func CheckStalenessLimit(d Duration) error {
	if d != 0 && (time.Duration(d) < minStaleness || time.Duration(d) > maxStaleness) {
		return fmt.Errorf("%s is not between %s and %s", d, minStaleness, maxStaleness)
	}
	return nil
}

// stalenessLimit is how old what is known of locks may be where current ones
// are wanted.
func (p *Preference) stalenessLimit() time.Duration {
	if p.StalenessLimit <= 0 {
		return defaultStaleness
	}
	return time.Duration(p.StalenessLimit)
}

// Stale tells whether a State of that age is too old where current locks are
// wanted.
func (p *Preference) Stale(age time.Duration) bool { return age > p.stalenessLimit() }

// locking is a mode with the rules that it adds to a decision, and who says so
// in a sentence.
type locking struct {
	mode     LockingMode
	who      string
	met, old *Rule
}

func newLocking(source, who string, m LockingMode) locking {
	const demanded = "locks that are current are demanded, and "
	return locking{
		mode: m, who: who,
		met: &Rule{RuleRequire, source, demanded + "they are"},
		old: &Rule{RuleRequire, source, demanded + "it is not known whether there are newer ones"},
	}
}

// clusterLocking is the cluster's, without the mode.
var clusterLocking = newLocking("cluster_auth_preference locking_mode", "the cluster (locking_mode: strict)", LockingUnset)

// locking is what holds for the subject: strict where one of its roles says
// so, else best_effort where one does, else what the cluster says.
func (e *evaluation) locking() locking {
	all := clusterLocking
	if all.mode = e.state.Preference.LockingMode; all.mode == LockingUnset {
		all.mode = LockingBestEffort
	}
	for _, r := range e.roles {
		switch r.locking.mode {
		case LockingStrict:
			return r.locking
		case LockingBestEffort:
			all = r.locking
		default: // the role says nothing
		}
	}
	return all
}

// checkStaleness gives how old the state may become before it has to be asked
// again, 0 as old as it likes; or the denial, where it is too old.
func (e *evaluation) checkStaleness() (limit time.Duration, no *Decision) {
	l := e.locking()
	switch l.mode {
	case LockingBestEffort:
		return 0, nil
	case LockingStrict:
	default:
		e.tookPart(&Rule{RuleDeny, l.old.Source, "the mode " + strconv.Quote(string(l.mode)) + " is unknown"})
		d := e.deny(CauseUnknownMode, "the cluster's locking mode is unknown here, so nobody is let in")
		return 0, &d
	}
	limit = e.state.Preference.stalenessLimit()
	if age := e.request.StateAge; e.state.Preference.Stale(age) {
		e.tookPart(l.old)
		d := e.deny(CauseStaleLocks, fmt.Sprintf("the node has not heard of new locks %s, and %s wants none older than %s",
			sinceWhen(age), l.who, limit))
		return 0, &d
	}
	e.tookPart(l.met)
	return limit, nil
}

// sinceWhen is an age in a sentence.
func sinceWhen(age time.Duration) string {
	if age == NeverHeard {
		return "since it started"
	}
	return "for " + age.Round(time.Second).String()
}
