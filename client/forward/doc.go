// Package forward carries connections by way of an SSH connection, as ssh -L,
// -R, -D and -A do: from listeners here to what the node reaches, and from
// listeners on the node to what is reached from here.
//
// Nothing comes from a node that was not asked for: a channel that no listener
// of ours accounts for is refused, and so is one more than the bounds allow
// (limits.go). Who a node says has connected is anybody's claim, and not used.
package forward
