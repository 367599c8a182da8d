module github.com/pgraft/pgraft/hack/offline-kind/components/pause

go 1.24.0
