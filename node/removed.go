package node

import (
	"errors"

	"connectrpc.com/connect"

	"devicetrust/policy"
)

// wasRemoved tells whether the control plane itself says that the node is no
// part of its cluster any more. It says NotFound for that and for nothing
// else; what a proxy or a broken connection says is no such word.
func wasRemoved(err error) bool {
	var ce *connect.Error
	return errors.As(err, &ce) && connect.IsWireError(ce) && ce.Code() == connect.CodeNotFound
}

// forsake ends all that the node lets people do: nobody would tell it of a
// lock any more. A control plane that is heard again (a removal that was taken
// back with a backup, say) sets the node to work again.
func (f *follower) forsake() {
	if f.states.get().removed {
		return
	}
	f.log.Error("the node was removed from its cluster; nobody is let in until it joins again with a new token")
	f.last = nil
	f.states.set(&state{policy: &policy.State{}, removed: true})
	if err := f.keeper.forget(); err != nil {
		f.log.Error("the saved policy cannot be removed; it would be used after a restart", "error", err)
	}
}

// removedReason is what people are told by a node that was removed.
const removedReason = "this node was removed from its cluster"
