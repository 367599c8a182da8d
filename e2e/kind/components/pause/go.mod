module github.com/pgraft/pgraft/e2e/kind/components/pause

go 1.24.0
