"""Model repositories: what lies in their folders, what was loaded from them, and what stays in memory."""
