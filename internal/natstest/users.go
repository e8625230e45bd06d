package natstest

import (
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// Limited is a change for Start. It gives the server two users: limited, whose
// password is pw, with these permissions, and admin, whose password is admin, who
// may do everything.
func Limited(p server.Permissions) func(*server.Options) {
	return func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "admin", Password: "admin"},
			{Username: "limited", Password: "pw", Permissions: &p},
		}
	}
}

// NoPublish is the permission to do everything but publish to these subjects.
func NoPublish(subjects ...string) server.Permissions {
	return server.Permissions{Publish: &server.SubjectPermission{Deny: subjects}}
}

// NoSubscribe is the permission to do everything but subscribe to these
// subjects.
func NoSubscribe(subjects ...string) server.Permissions {
	return server.Permissions{Subscribe: &server.SubjectPermission{Allow: []string{">"}, Deny: subjects}}
}

// URL is the address of a server for a user, who is given as "name:password".
func URL(s *server.Server, user string) string {
	return strings.Replace(s.ClientURL(), "://", "://"+user+"@", 1)
}
