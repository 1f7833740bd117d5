package policy

import "time"

// Preset is a role that every cluster starts with.
type Preset struct {
	Name, Description string
	Spec              RoleSpec
}

// Presets are the roles that every cluster starts with, by name in order.
// Administrators may change them.
func Presets() []Preset {
	yes := true
	everyNode := map[string]Values{anything: {anything}}
	// What deviceAdmin may do with devices an editor may do with everything.
	all := append([]string(nil), verbs...)
	return []Preset{
		{"access", "Reach every node with one's own logins", RoleSpec{
			Options: RoleOptions{MaxSessionTTL: Duration(30 * time.Hour), PortForwarding: &yes, ForwardAgent: &yes},
			Allow:   RoleConditions{Logins: []string{ownLogins}, NodeLabels: everyNode},
		}},
		{"auditor", "Read the audit record", RoleSpec{
			Allow: RoleConditions{Rules: []APIRule{{Resources: []string{"event"}, Verbs: []string{"list", "read"}}}},
		}},
		{"device-admin", "Manage the device inventory", RoleSpec{
			Allow: RoleConditions{Rules: []APIRule{{Resources: []string{"device"}, Verbs: all}}},
		}},
		// Registering a machine (dtsh device enroll --current-device) takes
		// "create" too, which only device-admin and editor have.
		{"device-enroll", "Let registered devices enroll", RoleSpec{
			Allow: RoleConditions{Rules: []APIRule{{Resources: []string{"device"}, Verbs: []string{"enroll"}}}},
		}},
		{"editor", "Administer users, roles, devices and the cluster", RoleSpec{
			Allow: RoleConditions{Rules: []APIRule{{
				Resources: []string{
					"user", "role", "cluster_auth_preference", "lock", "token", "node", "cert_authority", "device",
				},
				Verbs: all,
			}}},
		}},
		// It grants nothing: what its bearers reach by other roles, they
		// reach from a trusted device only.
		{"require-trusted-device", "Demand a trusted device for every node", RoleSpec{
			Options: RoleOptions{DeviceTrustMode: ModeRequired},
			Allow:   RoleConditions{NodeLabels: everyNode},
		}},
	}
}
